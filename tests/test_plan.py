"""What a run will do: sizes, steps, validations; optimizer, schedule and loss."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("lightning")
pytest.importorskip("matplotlib")
pytest.importorskip("PIL")
pytest.importorskip("rich")
pytest.importorskip("torchmetrics")
pytest.importorskip("torchvision")

from segfast._errors import OptionError
from segfast.data.classes import IGNORE_INDEX
from segfast.data.report import DataReport
from segfast.data.verify import open_data
from segfast.losses import create_loss
from segfast.train_options import TrainOptions
from segfast.training.module import SegmentationModule
from segfast.training.plan import Plan, make_plan
from segfast.training.run import Batches, build_module


@pytest.fixture(scope="module")
def data() -> DataReport:
    """240 training and 40 validation images of 96x128, 4 classes."""
    return open_data("synthetic")


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def plan_for(data: DataReport, **options: Any) -> Plan:
    options = {"model_options": {"width": 4}, "workers": 0, **options}
    return make_plan(TrainOptions("synthetic", **options), data)


def of_size(data: DataReport, size: tuple[int, int]) -> DataReport:
    scans = [replace(scan, size=size) for scan in data.scans["train"]]
    return replace(data, scans={**data.scans, "train": scans})


class TestPlan:
    @pytest.mark.parametrize(
        ("native", "size"),
        [
            ((96, 128), (96, 128)),
            ((97, 131), (97, 131)),  # small enough: as it is
            ((360, 480), (120, 160)),
            ((1000, 700), (168, 112)),  # 165.6 x 115.9, in multiples of 8
            ((4, 9000), (8, 6592)),
        ],
    )
    def test_default_size(
        self, data: DataReport, native: tuple[int, int], size: tuple[int, int]
    ) -> None:
        plan = plan_for(of_size(data, native))
        assert plan.card.size == plan.options.size == size
        said = [f"they are {native[0]}x{native[1]}" in note for note in plan.notes]
        assert said == [True] * (native != size)

    @pytest.mark.parametrize(
        ("batch_size", "validations", "steps"),
        [(4, 3, 60), (7, 3, 33), (100, 2, 2), (240, 1, 1)],
    )
    def test_steps_are_a_multiple_of_validations(
        self, data: DataReport, batch_size: int, validations: int, steps: int
    ) -> None:
        """Six training images to one of validation: three validations an epoch, if it is long."""
        plan = plan_for(data, batch_size=batch_size, epochs=5)
        assert (plan.validations, plan.steps_per_epoch) == (validations, steps)
        assert plan.total_steps == 5 * steps

    @pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
    def test_learning_rate(self, data: DataReport, rate: float) -> None:
        with pytest.raises(OptionError, match="--lr must be above 0"):
            plan_for(data, lr=rate)


def module_for(data: DataReport, total_steps: int = 10, **options: Any) -> SegmentationModule:
    card = plan_for(data, **options).card
    model = torch.nn.Conv2d(3, 4, 1)
    loss = create_loss("cross_entropy", ignore_index=IGNORE_INDEX)
    return SegmentationModule(model, loss, card, total_steps)


class TestModule:
    @pytest.mark.parametrize(("total_steps", "warm_up"), [(1000, 50), (8000, 200), (10, 1)])
    def test_schedule(self, data: DataReport, total_steps: int, warm_up: int) -> None:
        """Up over 5 % of the steps, at most 200; down to 0 with the power 0.9."""
        module = module_for(data, total_steps, lr=2.0)
        parts: Any = module.configure_optimizers()
        rates = []
        for _ in range(total_steps + 1):
            rates += parts["lr_scheduler"]["scheduler"].get_last_lr()
            parts["optimizer"].step()
            parts["lr_scheduler"]["scheduler"].step()
        assert parts["lr_scheduler"]["interval"] == "step"
        for step in (0, warm_up // 2, warm_up - 1, warm_up, total_steps // 2, total_steps):
            rise = min(1, (step + 1) / warm_up)
            expected = 2.0 * rise * (1 - step / total_steps) ** 0.9
            assert rates[step] == pytest.approx(expected), step

    @pytest.mark.parametrize("name", ["sgd", "adamw"])
    def test_optimizer(self, data: DataReport, name: str) -> None:
        module = module_for(data, optimizer=name, lr=0.25, weight_decay=0.125)
        parts: Any = module.configure_optimizers()
        optimizer = parts["optimizer"]
        assert type(optimizer) is (torch.optim.SGD if name == "sgd" else torch.optim.AdamW)
        assert optimizer.defaults["weight_decay"] == 0.125 and optimizer.defaults["lr"] == 0.25
        assert name == "adamw" or optimizer.defaults["momentum"] == 0.9

    def test_dropout_depends_on_the_seed_and_the_step(self, data: DataReport) -> None:
        drawn = []
        for seed, before in ((3, 1), (3, 2), (4, 1)):
            torch.manual_seed(before)
            module_for(data, seed=seed).on_train_batch_start(None, 0)
            drawn.append(torch.rand(1).item())
        assert drawn[0] == drawn[1] != drawn[2]

    def test_ignored_pixels_do_not_count(self, data: DataReport) -> None:
        module = module_for(data)
        labels = torch.randint(4, (8, 6)).byte()
        labels[:3] = IGNORE_INDEX
        module.on_validation_epoch_start()
        module.validation_step([(torch.rand(3, 8, 6), labels)], 0)
        expected = torch.bincount(labels[3:].flatten(), minlength=4)
        assert torch.equal(module.confusion.compute().sum(1), expected)


class TestRun:
    def test_class_weights_reach_the_loss(self, data: DataReport) -> None:
        module = build_module(plan_for(data, class_weights="median_frequency"), data)
        logits, labels = torch.randn(2, 4, 6, 5), torch.randint(4, (2, 6, 5))
        labels[0, 0] = IGNORE_INDEX
        weight = torch.tensor(data.median_frequency_weights())
        torch.testing.assert_close(
            module.loss(logits, labels),
            torch.nn.functional.cross_entropy(logits, labels, weight, ignore_index=IGNORE_INDEX),
        )

    @pytest.mark.parametrize("augment", [True, False])
    def test_augmentation_is_an_option(self, data: DataReport, augment: bool) -> None:
        batches = Batches(plan_for(data, augment=augment), data)
        batches.trainer = SimpleNamespace(global_rank=0, world_size=1, global_step=0)  # type: ignore[assignment]
        crops = batches.train_dataloader().dataset
        first, in_the_next_epoch = crops[3][0], crops[3 + 240][0]
        assert torch.equal(first, in_the_next_epoch) is not augment
