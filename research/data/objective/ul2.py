"""UL2's mixture of denoisers (arXiv:2205.05131, table 1)."""

from dataclasses import dataclass

from research.config.objective import Denoiser, Objectives
from research.data.objective.prefix_lm import PrefixLM
from research.data.objective.span_corruption import SpanCorruption


@dataclass(frozen=True)
class UL2(Objectives):
    """UL2's seven denoisers in equal parts (table 1). The released models use the prefixes [NLU], [NLG] and [S2S]."""

    regular: str = "[R]"
    extreme: str = "[X]"
    sequential: str = "[S]"

    def components(self) -> tuple[Denoiser, ...]:
        return (
            Denoiser(SpanCorruption(0.15, 3.0), self.regular),
            Denoiser(SpanCorruption(0.15, 8.0), self.regular),
            Denoiser(SpanCorruption(0.5, 3.0), self.extreme),
            Denoiser(SpanCorruption(0.5, 8.0), self.extreme),
            Denoiser(SpanCorruption(0.15, 64.0), self.extreme),
            Denoiser(SpanCorruption(0.5, 64.0), self.extreme),
            Denoiser(PrefixLM(0.25), self.sequential),
        )
