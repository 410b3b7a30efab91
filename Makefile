.PHONY: docs reference pictures notebooks

# The site, into build/docs. Needs requirements.txt and requirements-docs.txt.
docs:
	python -m sphinx -W --keep-going -q -b html -c docs . build/docs

# The generated pages of docs/: after a change of configs, rules or commands.
reference:
	python -m docs.reference

# The pictures of docs/ that need no run.
pictures:
	python -m docs.pictures

# The outputs that the notebooks show: after a change of a cell. Minutes.
notebooks:
	python notebooks/outputs.py
