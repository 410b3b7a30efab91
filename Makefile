.PHONY: docs reference

# The site, into build/docs. Needs requirements.txt and requirements-docs.txt.
docs:
	python -m sphinx -W --keep-going -q -b html -c docs . build/docs

# The generated pages of docs/: after a change of configs, rules or commands.
reference:
	python -m docs.reference
