"""The Beam graph: chunks of image refs are loaded, attacked, fanned out to defences and models, and written."""

from collections.abc import Sequence

import apache_beam as beam

from pipeline.experiment import Experiment
from transforms.attack import AttackImages
from transforms.chunks import ImageRef, Work
from transforms.defense import FanOut
from transforms.held_models import HeldModels
from transforms.images import LoadImages
from transforms.store import Store
from transforms.transfer import Transfer, WriteParts


def build(
    root: beam.Pipeline,
    experiment: Experiment,
    work: Sequence[Work],
    models: HeldModels,
    store: Store,
    pool: Sequence[ImageRef],
    targets: Sequence[str],
) -> beam.PCollection:
    """Adds the whole of an experiment to a pipeline.

    Between the steps go references and rows, never pixels: each step stores what it makes, finds what is stored
    already, and does only the rest. So any step can be repeated, and a runner may put any of them elsewhere.

    Args:
        work: the chunks with anything left to do.
        models: at least the surrogates of the work's attacks and the targets.
        pool: images that attacks may mix in.
        targets: the models that look at canvases this time.

    Returns:
        The parts of `predictions` that were written.
    """
    field, size = experiment.canvas.field, experiment.chunk_size
    wanted = {spec.name: spec.target for spec in experiment.specs}
    return (
        root
        | "Chunks of image refs" >> beam.Create(work)
        | "Load" >> beam.ParDo(LoadImages(store, experiment.canvas.spec))
        | "Attack"
        >> beam.ParDo(
            AttackImages(store, experiment.specs, models, field, experiment.seed, size, pool, experiment.canvas.spec)
        )
        | "Fan out to defences" >> beam.ParDo(FanOut(experiment.defenses))
        | "Transfer"
        >> beam.ParDo(
            Transfer(
                store,
                models,
                targets,
                experiment.views,
                wanted,
                field,
                size,
                all_probabilities=experiment.all_probabilities,
            )
        )
        | "Write" >> beam.ParDo(WriteParts(store))
    )
