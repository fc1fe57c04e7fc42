"""`equifed plot`: the curves of runs in one figure, several seeds as a band."""

import pathlib
from typing import Annotated, Literal

from .. import plot
from .asked import parsed
from .folder import load, Seed


Along = Literal["round", "seconds", "hours", "bytes"]


def plot_runs(args: list[str]) -> int:
    """Draws a metric of runs over their rounds, over time, or over what was sent."""
    import tyro

    def arguments(
        runs: Annotated[
            tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(help="their folders.")
        ],
        metric: Annotated[str, tyro.conf.arg(help="what is drawn.")] = "test/accuracy",
        x: Annotated[
            Along,
            tyro.conf.arg(
                help="along which it is drawn: bytes are those sent so far, and the "
                "time is that of a clock."
            ),
        ] = "round",
        output: Annotated[
            pathlib.Path, tyro.conf.arg(help="the figure; its ending says its kind.")
        ] = pathlib.Path("curves.png"),
    ) -> tuple[tuple[str, ...], str, Along, pathlib.Path]:
        return runs, metric, x, output

    runs, metric, x, output = parsed(arguments, args, "equifed plot")
    if not runs:
        raise ValueError("`RUN` must be given: the folder of at least one run.")
    found = [load(run) for run in runs]
    names = [run.name for run in found]
    curves = {
        # Folders of one name are told by where they are.
        run.name if names.count(run.name) == 1 else path: [
            Seed(history) for history in run.histories
        ]
        for run, path in zip(found, runs, strict=True)
    }
    ax = plot.learning_curves(curves, metric, x=x)
    kinds = ax.figure.canvas.get_supported_filetypes()
    if output.suffix and output.suffix.lower().removeprefix(".") not in kinds:
        raise ValueError(
            "`--output` must end as a figure does, `.png` for example, got "
            f"{output.suffix!r}. There are: {', '.join(sorted(kinds))}."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    ax.figure.savefig(output, dpi=150)
    print(f"wrote {output}")
    return 0
