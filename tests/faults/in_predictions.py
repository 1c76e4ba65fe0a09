"""Faults in what the model stages predicted, which the report reads."""

from tests.faults.case import Fault, column, content, cut, flip, gone, json_with, json_without, table_with

BASELINE, SIGMA = "data/predictions/baseline.parquet", "data/predictions/sigma.parquet"
HEADS, CALIBRATION = "data/predictions/heads.json", "models/adapter_calibration.json"
AGAIN = "run the stage again (dvc repro)"


def with_values(value: float):
    """A column of one number a row in which every number is another."""
    return lambda rows: [value for _ in rows]


def no_action(table):
    """Actions of Sigma's that are no number, in the form that the column has."""
    import pyarrow

    name = "sigma_action"
    index, kind = table.column_names.index(name), table[name].type
    rows = pyarrow.array([[float("nan")] * kind.list_size] * table.num_rows, type=kind)
    return table.set_column(index, table.field(index), rows)


def relabelled(table):
    """A column's stored shape does not fit its values."""
    index = table.column_names.index("base_action")
    return table.set_column(index, table.field(index).with_metadata({b"shape": b"7,7"}), table["base_action"])


FAULTS = [
    Fault("a table is missing", "report", gone(SIGMA), f"{SIGMA}: not found; run the stage that writes it (dvc repro)"),
    Fault("a table is truncated", "report", cut(SIGMA), f"{SIGMA}: not readable as Parquet (…"),
    Fault("a table is empty", "report", content(BASELINE, b""), f"{BASELINE}: not readable as Parquet (…"),
    Fault(
        "a column is missing",
        "report",
        table_with(SIGMA, lambda table: table.drop_columns("tau_l2")),
        f"{SIGMA}: column 'tau_l2' is missing; run the stage that writes it again (dvc repro)",
    ),
    Fault(
        "a column's shape does not fit its values",
        "report",
        table_with(SIGMA, relabelled),
        f"{SIGMA}: column 'base_action' does not have the shape 7,7",
    ),
    Fault(
        "a column of words",
        "report",
        table_with(SIGMA, column("tau_l2", lambda rows: ["long"] * len(rows))),
        f"{SIGMA}: column 'tau_l2' is not numeric",
    ),
    Fault(
        "windows of another run",
        "report",
        table_with(SIGMA, column("step", lambda rows: [step + 1 for step in rows])),
        f"{SIGMA}: column 'step' differs from {BASELINE}; {AGAIN}",
    ),
    Fault(
        "factors that are no number",
        "report",
        table_with(SIGMA, column("tau_l2", with_values(float("nan")))),
        f"{SIGMA}: column 'tau_l2' holds a value that is not finite; legal: finite numbers",
    ),
    Fault(
        "no test window",
        "report",
        lambda project: [
            table_with(name, column("split", lambda rows: ["train" if row == "test" else row for row in rows]))(project)
            for name in (BASELINE, SIGMA)
        ],
        f"{BASELINE}: no test window; legal: at least one test episode",
    ),
    Fault("heads.json without Sigma's", "report", json_without(HEADS, "sigma"), f"{HEADS}: key 'sigma' is missing; …"),
    Fault(
        "a calibration of another version",
        "report",
        json_with(CALIBRATION, "format_version", 9),
        f"{CALIBRATION}: format_version: found 9; legal: 4; …",
    ),
    Fault(
        "a calibration without a term's tail",
        "report",
        json_without(CALIBRATION, "terms.picture.tail"),
        f"{CALIBRATION}: key 'terms.picture.tail' is missing; …",
    ),
    Fault(
        "a calibration with a tail of zero",
        "report",
        json_with(CALIBRATION, "terms.picture.tail", 0),
        f"{CALIBRATION}: terms.picture.tail: expected greater than 0, found 0; …",
    ),
    Fault(
        "a calibration whose arrays were altered",
        "report",
        flip("models/adapter_calibration.safetensors"),
        "models/adapter_calibration.safetensors: missing or altered since adapter_calibration.json was written; …",
    ),
    Fault(
        "a calibration of another model",
        "publish me/sigma --no-upload",
        json_with(CALIBRATION, "model", "0" * 64),
        f"{CALIBRATION}: was made with other weights than those in models/sigma; …",
    ),
    Fault(
        "metrics that name no model",
        "publish me/sigma --no-upload",
        json_without("metrics/check_a.json", "digest.sigma"),
        "metrics/check_a.json: key 'digest.sigma' is missing; …",
    ),
    Fault(
        "metrics of another model",
        "publish me/sigma --no-upload",
        json_with("metrics/check_a.json", "digest.sigma", "0" * 64),
        "metrics/check_a.json: made with heads 000000000000, models/sigma holds …; run `dvc repro`",
    ),
    Fault(
        "fewer joint names than joints",
        "report",
        json_with("data/shards/meta.json", "joint_names", ["gripper.pos"]),
        f"data/shards/meta.json: joint_names has 1 names, {BASELINE} has 6 joints",
    ),
    Fault(
        "actions of Sigma's that are no number",
        "report",
        table_with(SIGMA, no_action),
        "report: …",
        recovers="a residual that is not finite counts as zero, as it does on a robot",
        writes=("metrics", "reports", "logs"),
    ),
]
