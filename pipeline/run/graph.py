"""The Beam graph: chunks of image refs are loaded, attacked, fanned out to defences and models, and written."""

from collections.abc import Sequence

import apache_beam as beam

from pipeline.config.experiment import Experiment
from transforms.data.chunks import Material, Work
from transforms.steps.attack import AttackImages
from transforms.steps.context import StepContext
from transforms.steps.fan_out import FanOut
from transforms.steps.load import LoadImages
from transforms.steps.transfer import Transfer, WriteParts


def build(
    root: beam.Pipeline,
    experiment: Experiment,
    context: StepContext,
    work: Sequence[Work],
    targets: Sequence[str],
    material: Material,
) -> beam.PCollection:
    """Adds an experiment to a pipeline.

    Between the steps go references and rows, never pixels: each step stores what it makes, finds what is stored
    already, and does only the rest. So any step can be repeated, and a runner may put any of them elsewhere.

    Args:
        context: its models are at least the surrogates of the work's attacks and the targets.
        work: the chunks with anything left to do.
        targets: the models that look at canvases this time.
        material: what attacks take besides.

    Returns:
        The parts of `predictions` that were written.
    """
    wanted = {spec.name: spec.target for spec in experiment.specs}
    return (
        root
        | "Chunks of image refs" >> beam.Create(work)
        | "Load" >> LoadImages(context)
        | "Attack" >> AttackImages(context, experiment.specs, material)
        | "Fan out to defences" >> FanOut(experiment.defenses_of, together=context.store.bundles)
        | "Transfer"
        >> Transfer(context, targets, experiment.views, wanted, all_probabilities=experiment.all_probabilities)
        | "Write" >> WriteParts(context.store)
    )
