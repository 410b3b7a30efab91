"""Tables, figures and the HTML report of a folder of runs."""
