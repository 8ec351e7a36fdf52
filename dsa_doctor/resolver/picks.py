"""What a family that picks its attention class itself picks for one judgement, from the facts."""

from dsa_doctor.facts.schema import AttentionCandidate, AttentionPick, OwnAttention
from dsa_doctor.resolver.judgement import Judgement


def picks_of(case: Judgement) -> OwnAttention | None:
    """Return what the facts hold of the family's picks."""
    fingerprint = case.facts.fingerprint.value
    every = fingerprint.own_attention or () if fingerprint is not None else ()
    return next((one for one in every if case.family is not None and one.family == case.family.key), None)


def pick_of(case: Judgement) -> AttentionPick | None:
    """Return what the family picks here: for the backend asked for by name, else, or where it is ignored, without."""
    own = picks_of(case)
    here = [one for one in own.picks if one.capability == str(case.capability)] if own is not None else []
    named = (one for one in here if one.asked is not None and one.asked == case.request.backend)
    return next(named, None) or next((one for one in here if one.asked is None), None)


def taken_of(pick: AttentionPick) -> tuple[AttentionCandidate, ...]:
    """Return the candidates whose backends say that they take the capability."""
    return tuple(one for one in pick.candidates if one.supported)
