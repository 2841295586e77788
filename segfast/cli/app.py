"""The commands, each in its own file."""

from __future__ import annotations

from inspect import getdoc

import typer

from segfast import __version__
from segfast.cli.bench import bench
from segfast.cli.data import verify_data
from segfast.cli.doctor import doctor
from segfast.cli.evaluate import evaluate
from segfast.cli.export import export
from segfast.cli.lr_find import lr_find
from segfast.cli.predict import predict
from segfast.cli.show import show
from segfast.cli.summary import summary
from segfast.cli.train import train
from segfast.data.folder import LAYOUTS

app = typer.Typer(
    name="segfast",
    help="Train segmentation models on a folder of images, score them, and predict masks.",
    epilog="Add --debug to any command to see where an error comes from.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.command()(train)
app.command("eval")(evaluate)
app.command()(predict)
app.command()(export)
app.command("verify-data", help=f"{getdoc(verify_data)}\n\nLayouts:\n\n{LAYOUTS}")(verify_data)
app.command()(show)
app.command("lr-find")(lr_find)
app.command()(summary)
app.command()(bench)
app.command()(doctor)


@app.callback(invoke_without_command=True)
def version(
    show: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Answers ``segfast --version``."""
    if show:
        typer.echo(f"segfast {__version__}")
        raise typer.Exit
