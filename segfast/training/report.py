"""``report.html``: a run on one page, in one file, for any screen."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from segfast import __version__
from segfast._files import write_text
from segfast.data.classes import ClassTable
from segfast.training.history import Row
from segfast.training.pictures import draw_loss, draw_scores
from segfast.training.plan import Plan
from segfast.training.scores import Scores

_INK = "#123456"  # drawn as the page's own text colour, light or dark


@dataclass(frozen=True)
class Page:
    """What a report shows; what is not there is left out.

    Attributes:
        title: the run's name.
        state: one sentence: how far it is, or what was scored.
        classes: names and colours.
        scores: of the images that ``scored`` names.
        rows: the run's metrics, over which the curves are drawn.
        steps_per_epoch: of the run.
        worst: the PNG file of the worst predictions.
        options: the run's options.
    """

    title: str
    state: str
    classes: ClassTable
    scores: Scores | None = None
    scored: str = ""
    rows: Sequence[Row] = ()
    steps_per_epoch: int = 1
    worst: Path | None = None
    options: Mapping[str, object] = field(default_factory=dict)


def write_report(page: Page, path: Path) -> None:
    """Replaces the HTML file: no script, nothing loaded from elsewhere."""
    parts = [_tiles(page), _curves(page)]
    if page.scores is not None:
        parts += [_classes(page.scores, page), _confusion(page.scores, page.classes.names)]
    if page.worst is not None:
        parts.append(_worst(page.worst))
    if page.options:
        options = yaml.safe_dump(dict(page.options), sort_keys=False, allow_unicode=True)
        parts.append(_section("Options (config.yaml)", f"<pre>{escape(options)}</pre>"))
    write_text(
        path,
        _PAGE.format(
            title=escape(page.title),
            state=escape(page.state),
            style=_STYLE,
            body="\n".join(part for part in parts if part),
            version=__version__,
        ),
    )


def run_page(plan: Plan, rows: Sequence[Row], state: str) -> Page:
    """A run's page: its curves, options, and in one line what it is."""
    options = plan.options
    step = rows[-1]["step"] if rows else 0
    return Page(
        title=f"{options.model} on {Path(options.data).name}",
        state=f"Step {step:.0f} of {plan.total_steps} ({options.epochs} epochs): {state}.",
        classes=plan.card.classes,
        rows=rows,
        steps_per_epoch=plan.steps_per_epoch,
        options=options.to_dict(),
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>"


def _tiles(page: Page) -> str:
    """The few numbers that one looks for first."""
    tiles: list[tuple[str, str]] = []
    scored = [row for row in page.rows if "val_mean_iou" in row]
    if scored:
        best = max(scored, key=lambda row: np.nan_to_num(row["val_mean_iou"], nan=-1))
        tiles.append((f"{best['val_mean_iou']:.3f}", f"best mean IoU, step {best['step']:.0f}"))
    if page.scores is not None:
        if not scored:
            tiles.append((f"{page.scores.mean_iou:.3f}", "mean IoU"))
        tiles.append((f"{page.scores.mean_dice:.3f}", "mean Dice"))
        tiles.append((f"{page.scores.accuracy:.3f}", "pixel accuracy"))
        tiles.append((f"{page.scores.mean_class_accuracy:.3f}", "mean class accuracy"))
    if page.rows:
        recent = [row["train_loss"] for row in page.rows[-20:]]
        tiles.append((f"{np.mean(recent):.3f}", "training loss"))
        tiles.append((f"{np.median([r['images_per_second'] for r in page.rows]):.1f}", "images/s"))
    return '<div class="tiles">{}</div>'.format(
        "".join(f"<div><b>{value}</b>{escape(name)}</div>" for value, name in tiles)
    )


def _curves(page: Page) -> str:
    if not page.rows:
        return ""
    pictures = []
    for draw in (draw_loss, draw_scores):
        figure = Figure(figsize=(5, 3.4), layout="constrained")
        with matplotlib.rc_context(_SVG):
            draw(figure.subplots(), page.rows, page.steps_per_epoch)
            pictures.append(f"<figure>{_svg(figure)}</figure>")
    return _section("Curves", f'<div class="curves">{"".join(pictures)}</div>')


_SVG: dict[Any, str] = {
    "svg.fonttype": "none",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
}


def _svg(figure: Figure) -> str:
    """The figure as an SVG element whose ink is the page's."""
    file = io.StringIO()
    FigureCanvasSVG(figure)
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


_BAR = '<div class="bar" style="width:{:.1f}%"></div>'


def _classes(scores: Scores, page: Page) -> str:
    rows = []
    columns = (scores.iou, scores.dice, scores.class_accuracy, 100 * scores.share)
    for name, colour, *values in zip(
        page.classes.names, page.classes.palette, *columns, strict=True
    ):
        swatch = f'<i style="background:rgb{colour}"></i>'
        meter = "" if np.isnan(values[0]) else _BAR.format(100 * values[0])
        cells = "".join(f"<td>{_number(value)}</td>" for value in values)
        rows.append(
            f'<tr><th>{swatch}{escape(name)}</th>{cells}<td class="meter">{meter}</td></tr>'
        )
    table = (
        '<table class="classes"><thead><tr><th>class</th><td>IoU</td><td>Dice</td><td>accuracy</td>'
        f'<td>pixels %</td><td class="meter">IoU</td></tr></thead>{"".join(rows)}</table>'
    )
    return _section(f"Classes, {page.scored}", f'<div class="wide">{table}</div>')


def _confusion(scores: Scores, names: Sequence[str]) -> str:
    head = "".join(f'<th title="{escape(name)}">{n}</th>' for n, name in enumerate(names))
    rows = []
    for number, (name, row) in enumerate(zip(names, scores.recall, strict=True)):
        cells = "".join(
            "<td>-</td>"
            if np.isnan(share)
            else f'<td style="--share:{100 * share:.0f}%">{100 * share:.0f}</td>'
            for share in row
        )
        rows.append(f"<tr><th>{number} {escape(name)}</th>{cells}</tr>")
    table = f'<table class="confusion"><tr><th>true</th>{head}</tr>{"".join(rows)}</table>'
    note = "<p>Per cent of each true class (row) that is predicted as each class (column).</p>"
    return _section("Confusion matrix", f'{note}<div class="wide">{table}</div>')


def _worst(path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    picture = f'<img alt="images beside their masks" src="data:image/png;base64,{data}">'
    return _section("Worst predictions", f'<div class="wide worst">{picture}</div>')


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.3g}" if value >= 1 else f"{value:.3f}"


_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>{state}</p></header>
{body}
<footer>segfast {version}</footer>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #60646c; --ground: #fff;
  --panel: #f4f5f7; --line: #dcdfe4; --accent: #4c72b0; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --soft: #a0a6ae; --ground: #15171a; --panel: #1f2226;
    --line: #363a40; --accent: #6f97d8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1100px; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; }
header p, section p, footer { color: var(--soft); margin: .2rem 0 .6rem; overflow-wrap: anywhere; }
footer { margin-top: 2rem; font-size: .85rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem; }
.tiles div { background: var(--panel); border-radius: 8px; padding: .6rem .8rem;
  color: var(--soft); font-size: .85rem; }
.tiles b { display: block; color: var(--ink); font-size: 1.5rem; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
  gap: 1rem; }
figure { margin: 0; }
svg { width: 100%; height: auto; color: var(--ink); }
svg text { font-family: inherit !important; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; white-space: nowrap; }
td { text-align: right; }
th, td { padding: .25rem .4rem; border-bottom: 1px solid var(--line); }
thead td, thead th, p { font-size: .85rem; }
th i { display: inline-block; width: .9em; height: .9em; margin-right: .5em; border-radius: 3px;
  border: 1px solid var(--line); vertical-align: -.1em; }
.classes { width: 100%; max-width: 44rem; }
.meter { width: 40%; min-width: 5rem; text-align: left; }
@media (max-width: 36rem) { .classes :is(th, td):nth-child(n+5) { display: none; } }
.bar { height: .7rem; border-radius: 3px; background: var(--accent); }
.confusion th:first-child { position: sticky; left: 0; background: var(--ground); }
.confusion th:not(:first-child), .confusion td { text-align: center; padding: .25rem .4rem;
  min-width: 2.2rem; border: 1px solid var(--line); }
.confusion td { background: color-mix(in srgb, var(--accent) var(--share, 0%), transparent); }
.worst img { display: block; width: 100%; min-width: 640px; border-radius: 6px; }
pre { background: var(--panel); border-radius: 8px; padding: .8rem; overflow-x: auto;
  font-size: .85rem; margin: 0; }
"""
