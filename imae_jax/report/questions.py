"""Sections of the report: questions, each with the evaluators that answer it."""

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

from imae_jax.evaluators.tables import Numbers, Results, Table
from imae_jax.report import charts, headlines, summary
from imae_jax.report.charts import Chart


@dataclasses.dataclass(frozen=True)
class Question:
    """A question and where its answer comes from.

    Attributes:
      title: the question.
      evaluators: names of the evaluators whose tables belong to it.
      sentences: functions of a run's metrics that yield plain sentences.
      charts: functions of a run's metrics and name that yield charts.
    """

    title: str
    evaluators: Sequence[str]
    sentences: Sequence[Callable[[Numbers], Iterator[str]]] = ()
    charts: Sequence[Callable[[Numbers, str], Iterator[Chart]]] = ()


QUESTIONS = {
    "separability": Question(
        "Do the latents hold both images?",
        ("separability",),
        (headlines.separated, headlines.told_apart),
        (charts.separability,),
    ),
    "reconstruction": Question(
        "How well are the images reconstructed?",
        ("reconstruction", "quality"),
        (headlines.reconstructed,),
        (charts.quality,),
    ),
    "meaning": Question(
        "How much do the latents tell of each image?",
        ("semantics", "attributes", "recognition"),
        (headlines.named, headlines.recognised),
        (charts.semantics,),
    ),
    "encoder": Question(
        "How good is the encoder on whole images?",
        ("classification", "probes", "segmentation", "representation"),
        (headlines.probed,),
    ),
}


@dataclasses.dataclass(frozen=True)
class Section:
    """A question with its answers.

    Attributes:
      id: anchor in the page.
      title: the question.
      sentences: {run: its sentences}.
      charts: charts of all runs.
      tables: tables of all runs.
    """

    id: str
    title: str
    sentences: Mapping[str, Sequence[str]]
    charts: Sequence[Chart]
    tables: Sequence[Table]


def sections(
    results: Results, settings: summary.Settings, pictured: Collection[str]
) -> list[Section]:
    """Answers the questions for which there are metrics.

    Tables of other evaluators, such as a user's own, make a last section.

    Args:
      results, settings: of several runs.
      pictured: the runs whose charts are drawn.
    """
    tables: dict[str, list[Table]] = {}
    known = {name: id for id, q in QUESTIONS.items() for name in q.evaluators}
    for table in summary.all_tables(results, settings):
        id = known.get(table.example.partition("/")[0], "other")
        tables.setdefault(id, []).append(table)
    found = []
    for id, question in (QUESTIONS | {"other": Question("Other numbers", ())}).items():
        sentences = {
            run: [text for say in question.sentences for text in say(numbers)]
            for run, numbers in results.items()
        }
        section = Section(
            id,
            question.title,
            {run: texts for run, texts in sentences.items() if texts},
            [
                chart
                for run, numbers in results.items()
                if run in pictured
                for draw in question.charts
                for chart in draw(numbers, run)
            ],
            tables.get(id, ()),
        )
        if section.sentences or section.charts or section.tables:
            found.append(section)
    return found
