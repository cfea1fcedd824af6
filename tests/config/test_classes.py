"""Users' classes by name: overrides and JSON take every dataclass that subclasses what a field's annotation names."""

import subprocess
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import pytest

from research import (
    Adafactor,
    AdamW,
    Constant,
    DecoderOnly,
    Model,
    SeparateStacks,
    SharedLayers,
    Tied,
    UntiedHead,
)
from research.config import ConfigError, classes, override


class Noise(ABC):
    @abstractmethod
    def density(self) -> float: ...


@dataclass(frozen=True)
class Own(Noise):
    share: float
    extreme: bool = False

    def density(self) -> float:
        return self.share


@dataclass(frozen=True)
class Lacking(Noise):
    share: float = 0.1


@dataclass(frozen=True)
class Warmer(Adafactor):
    heat: int = 1


@dataclass(frozen=True)
class Holder:
    noise: Noise = Own(0.5)
    optimizer: AdamW | Adafactor = AdamW(schedule=Constant(peak=0.1))
    parts: tuple[Noise, ...] = ()


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(classes, "_namespaces", [])
    classes.remember({"Own": Own, "Warmer": Warmer, "Lacking": Lacking, "Noise": Noise, "Own2": 3})


def test_an_override_names_a_class_of_the_file(known):
    changed = override.apply(
        Holder(), {"noise": "Own(0.25, extreme=True)", "optimizer": "Warmer(schedule=Constant(peak=0.2), heat=3)"}
    )
    assert changed.noise == Own(0.25, True)
    assert changed.optimizer == Warmer(schedule=Constant(peak=0.2), heat=3)
    assert override.apply(changed, {"parts": "[Own(0.1), Own(0.2)]", "noise.share": "0.75"}).noise == Own(0.75, True)


def test_json_gives_back_the_class(known):
    config = Holder(Own(0.125), Warmer(schedule=Constant(peak=0.1), heat=2), (Own(0.1), Own(0.9)))
    assert override.from_json(override.to_json(config), Holder) == config
    text = override.as_text(config.noise)
    assert override.parse(Noise, text, "noise") == config.noise


def test_a_field_of_one_concrete_class_writes_no_type_unless_it_holds_a_subclass(known):
    @dataclass(frozen=True)
    class Single:
        optimizer: Adafactor

    plain, warmer = Single(Adafactor(schedule=Constant(peak=0.1))), Single(Warmer(schedule=Constant(peak=0.1)))
    assert '"Adafactor"' not in override.to_json(plain)
    assert '"type": "Warmer"' in override.to_json(warmer)


def test_what_is_no_subclass_is_refused_with_what_is_allowed(known):
    with pytest.raises(ConfigError, match=r"noise is SpanCorruption\(\.\.\.\): allowed is Own\(share, extreme\)"):
        override.apply(Holder(), {"noise": "SpanCorruption(0.1)"})
    with pytest.raises(ConfigError, match="noise is Unknown"):
        override.apply(Holder(), {"noise": "Unknown()"})
    with pytest.raises(ConfigError, match=r"optimizer is Own\(\.\.\.\): allowed is AdamW"):
        override.apply(Holder(), {"optimizer": "Own(0.5)"})
    with pytest.raises(ConfigError, match="needs share"):
        override.apply(Holder(), {"noise": "Own()"})


def test_a_class_that_lacks_a_method_is_not_taken(known):
    with pytest.raises(ConfigError, match="noise is Lacking"):
        override.apply(Holder(), {"noise": "Lacking()"})


def test_the_file_loaded_last_counts_first(known):
    @dataclass(frozen=True)
    class Own(Noise):
        share: float = 0.9

        def density(self) -> float:
            return 0.0

    classes.remember({"Own": Own})
    assert isinstance(override.parse(Noise, "Own()", "noise"), Own)


OLD_NAMES = [
    ("head", "Separate", UntiedHead()),
    ("stacks", "Apart", SeparateStacks()),
    ("stacks", "OneStack", DecoderOnly()),
]


def test_the_old_names_are_those_of_the_table():
    assert {old: type(value).__name__ for _, old, value in OLD_NAMES} == classes.RENAMED


@pytest.mark.parametrize(("field", "old", "value"), OLD_NAMES)
def test_a_config_may_hold_the_old_name_of_a_class(field, old, value):
    config = replace(Model(64, 32, 8, 4, 48, 2, 2, head=Tied(), stacks=SharedLayers()), **{field: value})
    text = override.to_json(config)
    assert f'"type": "{type(value).__name__}"' in text
    earlier = text.replace(f'"{type(value).__name__}"', f'"{old}"')
    assert override.from_json(earlier, Model) == config
    assert classes.is_exported(old)


@pytest.mark.parametrize(("field", "old", "value"), OLD_NAMES)
def test_an_override_may_name_the_old_name_of_a_class(field, old, value):
    config = Model(64, 32, 8, 4, 48, 2, 2, head=Tied(), stacks=SharedLayers())
    assert override.apply(config, {field: f"{old}()"}) == replace(config, **{field: value})
    assert override.apply(config, {field: old}) == replace(config, **{field: value})


def test_arguments_of_a_class_with_an_old_name_are_read():
    assert override.parse(DecoderOnly, "OneStack(True)", "stacks") == DecoderOnly(causal=True)
    assert override.parse(DecoderOnly, "OneStack(causal=True)", "stacks") == DecoderOnly(causal=True)


def test_a_users_class_with_an_old_name_counts_first(known):
    @dataclass(frozen=True)
    class Apart(Noise):
        def density(self) -> float:
            return 0.0

    classes.remember({"Apart": Apart})
    assert isinstance(override.parse(Noise, "Apart()", "noise"), Apart)


def test_every_exported_class_is_found_without_jax():
    program = (
        "import sys, research\n"
        "classes = [getattr(research, name) for name in research.__all__ if name[0].isupper()]\n"
        "assert len(classes) > 80, len(classes)\n"
        "print(*sorted({'jax', 'flax', 'optax', 'tensorflow_datasets', 'sacrebleu'} & sys.modules.keys()))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
