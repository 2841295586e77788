"""Every recipe: its options are known, its model is built, and one step trains on real images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("torchvision")
pytest.importorskip("typer")
from segfast.cli.options import read_config
from segfast.data.class_options import ClassOptions
from segfast.data.verify import open_data
from segfast.train_options import TrainOptions
from segfast.training.plan import make_plan
from segfast.training.run import Batches, build_module, build_trainer, quiet_lightning

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SHARED = ROOT.parent / "shared" / "data"


pytestmark = pytest.mark.usefixtures("one_core")


def few(source: Path, root: Path) -> Path:
    """Two training images and a validation image of a data set, by links."""
    listed = (source / "train.txt").is_file()
    for split, count in (("train", 2), ("val", 1)):
        images = source / ("images" if listed else split)
        masks = source / ("masks" if listed else f"{split}annot")
        names = [path.stem for path in sorted(images.iterdir())]
        if listed:
            names = (source / f"{split}.txt").read_text().split()
            (root / f"{split}.txt").write_text("\n".join(names[:count]))
        for folder, suffix in ((images, ".jpg"), (masks, ".png")):
            (root / folder.name).mkdir(exist_ok=True)
            for name in names[:count]:
                file = f"{name}{suffix}"
                (root / folder.name / file).symlink_to(folder / file)
    return root


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_step(recipe: Path, tmp_path: Path) -> None:
    """At a small size, which the recipe's own does not need to be tested at."""
    source = SHARED / recipe.stem.split("_")[0]
    if not source.is_dir():
        pytest.skip(f"{source.name} is not there")
    state = {**read_config(recipe), "data": str(few(source, tmp_path))}
    options = TrainOptions.from_dict({**state, "size": [64, 64], "batch_size": 2, "epochs": 1})
    report = open_data(
        options.data, ClassOptions(options.classes, options.ignore_index, options.binary)
    )
    assert report.problems == []
    plan = make_plan(options, report)
    module = build_module(plan, report)
    trainer = build_trainer(
        plan, [], devices=1, max_steps=1, logger=False, enable_progress_bar=False
    )
    before = [parameter.detach().clone() for parameter in module.parameters()]
    with quiet_lightning():
        trainer.fit(module, datamodule=Batches(plan, report))
    assert trainer.global_step == 1 and module.scores is not None
    after = list(module.parameters())
    assert all(parameter.isfinite().all() for parameter in after)
    moved = [not torch.equal(old, new) for old, new in zip(before, after, strict=True)]
    assert sum(moved) > 0.9 * len(moved)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_its_own_options(recipe: Path) -> None:
    """Everything in the file is an option; the model has the recipe's size and its parameters."""
    options = TrainOptions.from_dict({**read_config(recipe), "data": "synthetic"})
    assert options.size is not None
    with torch.device("meta"):
        report = open_data("synthetic")
        card = make_plan(options, report).card
        assert card.build()(torch.empty(1, 3, *options.size)).shape[:2] == (1, len(report.classes))
