"""Console output of the first host, and readable formats of numbers."""

from collections.abc import Mapping

from rich.console import Console

console = Console(highlight=False, soft_wrap=True)


def on_first_host() -> bool:
    """Tell whether this process is the first host."""
    import jax  # importing it takes seconds, which would delay a command's --help

    return jax.process_index() == 0


def say(text: str) -> None:
    """Print on the first host."""
    if on_first_host():
        console.print(text, markup=False)


def table(title: str, rows: Mapping[str, str]) -> None:
    """Print pairs of name and value under a title, on the first host."""
    if on_first_host():
        console.print(title, style="bold")
        width = max(map(len, rows))
        for name, value in rows.items():
            console.print(f"  {name:<{width}}  {value}", markup=False)


def amount(value: float | int, unit: str = "") -> str:
    """Format a count with a decimal prefix: 247.6 M."""
    for factor, prefix in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".strip()


def one_line(error: Exception) -> str:
    """Format an error on one line, with at most 300 letters."""
    return " ".join(str(error).split())[:300]


def amount_of(count: int, thing: str) -> str:
    """Format a number of things: 1 run, 2 runs."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def byte_amount(size: float | int) -> str:
    """Format a number of bytes in GiB or MiB."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 / 10 else f"{size / 2**20:.1f} MiB"


def clock(seconds: float | int) -> str:
    """Format a duration as 1:02:03 or 2:03."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
