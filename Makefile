.PHONY: docs reference notebooks

# The site, into build/docs. Needs requirements.txt and requirements-docs.txt.
docs:
	python -m sphinx -W --keep-going -q -b html -c docs . build/docs

# The generated pages of docs/: after a change of configs, rules or commands.
reference:
	python -m docs.reference

# The outputs that the notebooks show: after a change of a cell. Minutes.
notebooks:
	python notebooks/outputs.py
