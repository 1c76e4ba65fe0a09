"""The outputs of a training: the model folder and the curves."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sigma.policy.model import lora
from sigma.policy.model.decision import SigmaModel
from sigma.policy.model.heads import save_heads
from sigma.policy.model.model_folder import CONFIG, model_config
from sigma.shared.errors import SigmaError
from sigma.shared.files import atomic_directory, write_json
from sigma.training.trainer import TrainingResult


def write_model(result: TrainingResult[SigmaModel], folder: Path, start: dict[str, Any] | None = None) -> None:
    """Write ``models/sigma``: adapter, heads in two formats, configuration, statistics and tokenizer, whole or not.

    ``start`` is the record of the model that the training went on from.
    """
    batches = result.batches
    with atomic_directory(folder) as temporary:
        lora.save(result.model.adapted, temporary)
        save_heads(result.model.heads, temporary)
        batches.base.prompter.tokenizer.save_pretrained(temporary / "tokenizer")
        config = model_config(
            base=batches.base,
            weights_digest=result.weights_digest,
            sizes=result.model.heads.sizes,
            features_meta=batches.meta,
            shards_meta=batches.shards.meta,
            selected_step=result.selected,
        )
        write_json(temporary / CONFIG, config | {"start": start})


_LIVE: dict[str, Any] = {"report": None, "save_dvc_exp": False, "dvcyaml": None, "monitor_system": False}


def check_repository() -> None:
    """Raise :class:`SigmaError` where DVCLive could not write curves, before a training whose curves they are."""
    from dvclive import Live
    from scmrepo.exceptions import SCMError

    try:
        with TemporaryDirectory() as folder, Live(dir=folder, **_LIVE):
            pass
    except SCMError as error:
        raise SigmaError(f"git: {error}: training curves need a commit; run `git add -A && git commit`") from None


def write_curve(result: TrainingResult, folder: Path) -> None:
    """Write the curve's tables through DVCLive, so that ``dvc plots`` draws them."""
    from dvclive import Live

    with atomic_directory(folder) as temporary, Live(dir=str(temporary), **_LIVE) as live:
        validated = {point["step"]: point for point in result.curve.validation}
        for point in result.curve.train:
            live.step = int(point["step"])
            metrics = {f"train/{name}": value for name, value in point.items()}
            for name, value in validated.get(point["step"], {}).items():
                metrics[f"validation/{'flow' if name == 'value' else name}"] = value
            for name, value in metrics.items():
                if not name.endswith("/step"):
                    live.log_metric(name, value)
