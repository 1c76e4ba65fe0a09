"""``sigma study train``: one arm on one task at one training seed."""

import time
from pathlib import Path

from sigma.shared.records import POSITIVE, read_record
from sigma.studies.study.cells.arm_folder import CURVES, MODEL, RECORD
from sigma.studies.study.cells.parameters import cell_parameters, check_cell, check_seed, read_study
from sigma.studies.study.cells.workspace import CLOCKS, RATES, Workspace, cell_file


def run(*, task: str, arm: str, seed: int, params: Path, output: Path) -> str:
    """Write the folder ``output`` whole: the model, its curves and ``arm.json``; and the seconds that this run took (of
    a training that was interrupted, those since) under ``out/clocks``. Returns one line with the selected step.

    Raises :class:`SigmaError` for a task, an arm or a seed that is not listed, before any long work.
    """
    study = read_study(params)
    check_cell(study, task, arm, params)
    check_seed(study, seed, params)
    again = "run `dvc repro stages/study/dvc.yaml:rates`"
    rate = read_record(RATES / task / f"{arm}.json", {"rate": POSITIVE}, again)["rate"]
    parameters = cell_parameters(cell_file(task, arm), seed=seed, rate=rate)

    from sigma.shared.files import atomic_directory, digest_file, digest_folder, write_json, write_table
    from sigma.shared.logs import record_training
    from sigma.shared.tables import to_table
    from sigma.studies.study.train.training import curve_columns, trained_arm, write_arm_model

    kind, workspace, started = study.arms[arm].kind, Workspace.of(task), time.perf_counter()
    with trained_arm(kind, workspace, parameters) as result, atomic_directory(output) as temporary:
        write_arm_model(result, temporary / MODEL)
        write_table(temporary / CURVES, to_table(curve_columns(result.curve)))
        record_training(f"study-{task}-{arm}-{seed}", {"flow": result.speed})
        record = {
            "task": task,
            "arm": arm,
            "seed": seed,
            "kind": kind,
            "rate": rate,
            "validation": result.validation,
            "selected_step": result.selected,
            "steps": result.steps,
            "trained_parameters": result.trainable,
            "shards_digest": digest_file(workspace.shards / "meta.json"),
            "features_digest": digest_folder(workspace.features),
        }
        write_json(temporary / RECORD, record)
    # Apart from the folder, which is the same to the bit when the arm is trained again.
    write_json(CLOCKS / task / arm / f"{seed}.json", {"seconds": round(time.perf_counter() - started, 1)})
    return (
        f"train: {arm} on {task}, seed {seed}: {result.trainable:,} trained parameters, {result.steps} steps, "
        f"validation flow loss {result.validation:.5f} at step {result.selected}"
    )
