"""Surrogates: the models whose gradients an attack follows, seen through a view and fused into one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from transforms.attacks.inside import Inside, layers_of_each
from transforms.attacks.modifiers.modified import Modified
from transforms.attacks.objectives import Goal, Objective
from transforms.attacks.per_image import per_image
from transforms.attacks.tally import Tally
from transforms.attacks.units import LayerNames
from transforms.attacks.verdicts import decided
from transforms.data.verdicts import Verdict
from transforms.errors import InputError
from transforms.models.classifier import Classifier
from transforms.models.device import Precision
from transforms.models.engines.strided import QuickStrides
from transforms.models.layers import beside, changing, features
from transforms.models.views import View, averaged, look, windows
from transforms.randomness import Draws

Fusion = Literal["logits", "probabilities", "losses", "drawn"]
FUSIONS: tuple[str, ...] = get_args(Fusion)
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
_LOSS_SCALE = 1024.0
"""fp16 ends at 6e-8: gradients of a confident model would be zeros. A power of two changes no other bit."""


def _scale(by_logits: Sequence[Tensor]) -> Tensor:
    """By which derivatives (B, ...) with respect to logits or features are multiplied, so that fp16 holds what follows.

    A power of two (B,), for each image its own: less where an objective is so steep that fp16 would overflow.
    """
    steepest = torch.stack([each.abs().flatten(1).amax(dim=1) for each in by_logits]).amax(dim=0)
    return _LOSS_SCALE * torch.exp2(-steepest.log2().ceil().clamp(min=0))


Transform = Callable[[Tensor], Tensor]
"""Float canvases (B, 3, S, S) in [0, 1] -> the same shape, differentiable."""


def _unchanged(canvases: Tensor) -> Tensor:
    return canvases


class Slope(NamedTuple):
    """An objective at a point, with its gradient.

    Attributes:
        gradient: (B, 3, S, S), of each image's value with respect to its own pixels; zero where it is not finite.
        values: (B,), the objective.
        logits: (B, classes), of the fused surrogates.
    """

    gradient: Tensor
    values: Tensor
    logits: Tensor


def _over(draws: list[list[Tensor]]) -> list[Tensor]:
    """Each model's logits, probabilities averaged over the draws of a defence."""
    return [averaged(each) for each in zip(*draws, strict=True)]


class Surrogates:
    """One or more classifiers, attacked as one, counting what is asked of them.

    Attributes:
        tally: passes, and images whose gradients broke; shared with all that are made of these surrogates.
        active: bool (B,), the images whose passes are counted; None for all.
        members: the same with a single classifier each; an ensemble attack weighs them itself.
    """

    def __init__(
        self,
        classifiers: Sequence[Classifier],
        view: View,
        field_of_view: float,
        fuse: Fusion = "logits",
        *,
        followed: Sequence[Classifier] = (),
        defense: Sequence[Transform] = (_unchanged,),
        redraw: Callable[[Draws], Transform] | None = None,
        verdict: Verdict = "mean",
        precision: Precision = "fp32",
        tally: Tally | None = None,
    ) -> None:
        """Puts models together.

        Args:
            field_of_view: the part of the images' centre squares that the canvases hold, in (0, 1].
            fuse: what is averaged over the models; `drawn` is what `following` is for, and averages logits elsewhere.
            followed: what gives gradients in place of the models, one for each, such as modified ones; by default, the
                models.
            defense: what the models see instead of the canvases; of several, each model's probabilities are averaged.
            redraw: makes one more of them where they are random, so that gradients are not of those that judge.
            verdict: what decides of several whether a goal is reached (see `verdicts.decided`).
            precision: of gradients. Everything that is judged is computed in fp32.
        """
        self._classifiers = tuple(classifiers)
        self._followed = tuple(followed) or self._classifiers
        self._view = view
        self._field_of_view = field_of_view
        self._fuse = fuse
        self._defense = tuple(defense)
        self._redraw = redraw
        self._verdict = verdict
        self._precision = precision
        self._windows = windows(view)
        self._weights: Tensor | None = None
        self._inside: Mapping[nn.Module, Inside] = {}
        self.tally = Tally() if tally is None else tally
        self.active: Tensor | None = None

    @property
    def members(self) -> tuple["Surrogates", ...]:
        pairs = zip(self._classifiers, self._followed, strict=True)
        return tuple(
            self._changed(_classifiers=(judge,), _followed=(followed,), _fuse="logits", _weights=None)
            for judge, followed in pairs
        )

    def counting(self, active: Tensor) -> "Surrogates":
        """The same, counting only for images that are still attacked, bool (B,).

        So the cost of an image does not depend on how long others of its batch take. Images that are not active in
        these surrogates, such as those that fell to an earlier stage of a cascade, stay so.
        """
        return self._changed(active=active if self.active is None else active & self.active)

    @property
    def idle(self) -> bool:
        """Whether no image is attacked any more."""
        return self.active is not None and not bool(self.active.any())

    def tallied(self, tally: Tally) -> "Surrogates":
        """The same, counting for all images, in another tally."""
        return self._changed(tally=tally, active=None)

    def weighed(self, weights: Tensor) -> "Surrogates":
        """The same with logits, or losses where they fuse those, added up by weights, (models, B)."""
        return self._changed(_weights=weights)

    def seen(self, inside: Mapping[Classifier, Inside]) -> "Surrogates":
        """The same with something done inside each classifier; only one may have a layer that answers in its place."""
        return self._changed(_inside={each.network: done for each, done in inside.items()})

    @property
    def only(self) -> Classifier:
        """The classifier, where there is one."""
        (classifier,) = self._classifiers
        return classifier

    @property
    def layer(self) -> str:
        """The layer that answers in place of the only classifier."""
        return str(self._inside[self.only.network].layer)

    @property
    def whole(self) -> "Surrogates":
        """The same with nothing done inside."""
        return self._changed(_inside={})

    def at(self, layers: LayerNames) -> dict[Classifier, "Surrogates"]:
        """For each classifier the same with it alone, one of its layers in its place.

        Raises:
            InputError: there is no such layer.
        """
        names = layers_of_each(self._classifiers, layers)
        return {
            classifier: member.seen({classifier: Inside(layer=name)})
            for classifier, member, name in zip(self._classifiers, self.members, names, strict=True)
        }

    def begun(self) -> "Surrogates":
        """The same at the beginning of a run: modifiers know nothing of gradients taken before."""
        return self._changed(
            _followed=tuple(each.begun() if isinstance(each, Modified) else each for each in self._followed)
        )

    def redrawn(self, draws: Draws) -> "Surrogates":
        """The same with what is random, defence or modifiers, drawn once by these draws; itself where nothing is."""
        if not self.random:
            return self
        defense = self._defense if self._redraw is None else (self._redraw(draws),)
        followed = tuple(each.drawn(draws) if isinstance(each, Modified) else each for each in self._followed)
        return self._changed(_defense=defense, _followed=followed)

    def following(self, number: int) -> "Surrogates":
        """The same with gradients of one of the models alone, by its number; all of them judge."""
        return self._changed(_followed=(self._followed[number],))

    def __len__(self) -> int:
        return len(self._classifiers)

    def _changed(self, **attributes: object) -> "Surrogates":
        """The same but for some attributes."""
        changed = copy(self)
        changed.__dict__.update(attributes)
        return changed

    @property
    def random(self) -> bool:
        """Whether they answer otherwise when `redrawn`."""
        return self._redraw is not None or any(isinstance(each, Modified) and each.random for each in self._followed)

    def _passes(self, models: Sequence[Classifier]) -> int:
        """Passes of one network over one window that one look at canvases takes."""
        return len(models) * len(self._defense) * self._windows

    @property
    def exact(self) -> bool:
        """Whether what comes with a gradient is in fp32, like all that is judged."""
        return self._precision == "fp32"

    def logits(self, canvases: Tensor) -> Tensor:
        """Fused logits (B, classes), up to a constant per row, of float canvases (B, 3, S, S) in [0, 1].

        Nothing flows back through them.
        """
        with torch.no_grad():
            return self._fused(self._looks(canvases, self._classifiers))

    def judged(self, canvases: Tensor, goal: Goal) -> Tensor:
        """Logits (B, classes) that the verdict goes by: `logits` where it is the mean."""
        with torch.no_grad():
            return self._decided(self._draws(canvases, self._classifiers), goal)

    def judge(self, canvases: Tensor, objective: Objective, goal: Goal) -> tuple[Tensor, Tensor]:
        """Whether each image reaches the goal, bool (B,), and its objective (B,), the one that `slope` is of."""
        with torch.no_grad():
            draws = self._draws(canvases, self._classifiers)
            return goal.reached(self._decided(draws, goal)), self._values(_over(draws), objective, goal)

    def slope(
        self, canvases: Tensor, objective: Objective, goal: Goal, *, copies: Sequence[Transform] = (_unchanged,)
    ) -> Slope:
        """The objective of float canvases (B, 3, S, S) in [0, 1], with each image's gradient.

        Args:
            copies: what the models see in place of the canvases; each model's logits are averaged over them.
        """
        canvases = canvases.detach().requires_grad_()
        with self._reduced_precision(canvases.device):
            seen = [self._looks(copy(canvases), self._followed) for copy in copies]
            if joint := self._done.joint:
                several, features = (torch.stack(each) for each in zip(*seen, strict=True))
                looks = [answer for each in seen for answer in each]
                values, logits = joint(several, features, goal), several.mean(dim=0)
            else:
                looks = (
                    [torch.stack(each).mean(dim=0) for each in zip(*seen, strict=True)] if len(seen) > 1 else seen[0]
                )
                values, logits = self._values(looks, objective, goal), self._fused(looks)
        return Slope(self._gradient(values, looks, canvases, copies=len(copies)), values.detach(), logits.detach())

    def jacobian(self, canvases: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Fused logits (B, classes), and the gradients (B, K, 3, S, S) of those of `classes`, int64 (B, K)."""
        canvases = canvases.detach().requires_grad_()
        with self._reduced_precision(canvases.device):
            looks = self._looks(canvases, self._followed)
            logits = self._fused(looks)
        chosen = logits.gather(1, classes).unbind(dim=1)
        gradients = [self._gradient(each, looks, canvases, keep=each is not chosen[-1]) for each in chosen]
        return logits.detach(), torch.stack(gradients, dim=1)

    def features(self, canvases: Tensor) -> Tensor:
        """What the only classifier's layer answers, (B, ...), to float canvases (B, 3, S, S) in [0, 1].

        Nothing flows back through it.
        """
        with torch.no_grad():
            return self._looks(canvases, self._classifiers)[0]

    def sensitivity(self, canvases: Tensor, objective: Objective, goal: Goal) -> Tensor:
        """The gradient (B, ...) of an objective of the only classifier's logits with respect to its layer's features.

        Args:
            canvases: float (B, 3, S, S) in [0, 1].
        """
        cut: list[Tensor] = []

        def leaf(answer: Tensor) -> Tensor:
            cut.append(answer.detach().requires_grad_())
            return cut[-1].clone()  # what follows may write into it

        whole = self.seen({self.only: Inside({self.layer: leaf})})
        with self._reduced_precision(canvases.device):
            looks = whole._looks(canvases, whole._followed)
            values = objective(looks[0], goal)
        return self._gradient(values, looks, cut[0]).float()

    def answers(self, canvases: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """What layers of the only classifier answer, (B, ...) each, to float canvases (B, 3, S, S) in [0, 1].

        Nothing flows back through them.
        """
        found: dict[str, Tensor] = {}

        def keep(layer: str, answer: Tensor) -> Tensor:
            found[layer] = answer.clone()  # what follows may write into it
            return answer

        with torch.no_grad():
            kept = self.seen({self.only: Inside({each: partial(keep, each) for each in layers})})
            kept._looks(canvases, kept._followed)
        return found

    def differentiable_logits(self, canvases: Tensor) -> Tensor:
        """Fused logits (B, classes) of float canvases (B, 3, S, S) in [0, 1], for a loss from elsewhere.

        Whoever takes a gradient with respect to `canvases`, by autograd, gets what `slope` would have given: counted
        each time that it is taken, and zero for an image where it is not finite. Where none can be taken they are
        `logits`.
        """
        if not (torch.is_grad_enabled() and canvases.requires_grad):
            return self.logits(canvases)
        if not all(each.differentiable for each in self._followed):
            raise InputError("a surrogate gives no gradients, which this attack follows; take it as a target")
        scale = torch.ones(len(canvases), device=canvases.device)

        def scaled(gradient: Tensor) -> Tensor:
            scale.copy_(_scale([gradient]))
            return gradient * scale[:, None]

        canvases = canvases.view_as(canvases)  # a hook on what belongs to the caller would outlive this call
        canvases.register_hook(lambda gradient: self._arrived(gradient / per_image(scale)))  # type: ignore[no-untyped-call]
        with self._reduced_precision(canvases.device):
            logits = self._fused(self._looks(canvases, self._followed))
        if self._precision == "fp16":
            logits.register_hook(scaled)  # type: ignore[no-untyped-call]
        return logits

    @contextmanager
    def _reduced_precision(self, device: torch.device) -> Iterator[None]:
        if self._precision == "fp32":
            yield
            return
        # On a GPU, a network that is compiled would have to be traced through them.
        kernels = QuickStrides() if device.type == "cpu" else nullcontext()
        with torch.autocast(device.type, _AUTOCAST[self._precision]), kernels:
            yield

    def _gradient(
        self, values: Tensor, looks: list[Tensor], canvases: Tensor, *, copies: int = 1, keep: bool = False
    ) -> Tensor:
        # Images do not interact in an evaluation-mode network: the gradient of the sum holds each image's own.
        summed = values.float().sum()
        if self._precision != "fp16":
            (gradient,) = torch.autograd.grad(summed, canvases, retain_graph=keep)
            return self._arrived(gradient, copies=copies)
        by_logits = torch.autograd.grad(summed, looks, retain_graph=True)
        scale = _scale(by_logits)
        scaled = [each * per_image(scale, each.dim()) for each in by_logits]
        (gradient,) = torch.autograd.grad(looks, canvases, scaled, retain_graph=keep)
        return self._arrived(gradient / per_image(scale, gradient.dim()), copies=copies)

    def _arrived(self, gradient: Tensor, *, copies: int = 1) -> Tensor:
        """Counts a gradient with respect to canvases or features, (B, ...); zero for images where it is not finite."""
        self.tally.count(self._counted(len(gradient)), backwards=copies * self._passes(self._followed))
        finite = gradient.isfinite().flatten(1).all(dim=1)
        self.tally.check(finite if self.active is None else finite | ~self.active)
        return torch.where(per_image(finite, gradient.dim()), gradient, 0)

    def _counted(self, images: int) -> Tensor:
        return torch.ones(images, dtype=torch.int64) if self.active is None else self.active.long().cpu()

    def _looks(self, canvases: Tensor, models: Sequence[Classifier]) -> list[Tensor]:
        return _over(self._draws(canvases, models))

    def _draws(self, canvases: Tensor, models: Sequence[Classifier]) -> list[list[Tensor]]:
        """For each draw of the defence, each model's logits."""
        self.tally.count(self._counted(len(canvases)), forwards=self._passes(models))
        return [self._looks_at(defended(canvases), models) for defended in self._defense]

    def _decided(self, draws: list[list[Tensor]], goal: Goal) -> Tensor:
        if self._verdict == "mean":
            return self._fused(_over(draws))
        return decided(self._verdict, [self._fused(each) for each in draws], goal)

    def _looks_at(self, shown: Tensor, models: Sequence[Classifier]) -> list[Tensor]:
        return [answer.float() for each in models for answer in self._answers(each, shown)]

    def _answers(self, classifier: Classifier, shown: Tensor) -> tuple[Tensor, ...]:
        """Logits; or a layer's features, of the first window that it is shown; or both."""
        inside = self._inside.get(classifier.network, Inside())
        show = partial(look, classifier, self._view, shown, self._field_of_view)
        with changing(classifier.network, inside.changes):
            if inside.beside is not None:
                return beside(classifier.network, inside.beside, show)
            return (show() if inside.layer is None else features(classifier.network, inside.layer, show),)

    @property
    def _done(self) -> Inside:
        """What is done inside the first of the models."""
        return self._inside.get(self._followed[0].network, Inside())

    def _values(self, looks: list[Tensor], objective: Objective, goal: Goal) -> Tensor:
        own = self._done.objective
        if own is not None:
            return own(looks[0], goal)
        if self._fuse == "losses":
            losses = torch.stack([objective(each, goal) for each in looks])
            return losses.mean(dim=0) if self._weights is None else (self._weights * losses).sum(dim=0)
        return objective(self._fused(looks), goal)

    def _fused(self, looks: list[Tensor]) -> Tensor:
        if self._weights is not None:
            return (self._weights[..., None] * torch.stack(looks)).sum(dim=0)
        if len(looks) == 1:
            return looks[0]
        if self._fuse == "probabilities":
            return averaged(looks)
        return torch.stack(looks).mean(dim=0)
