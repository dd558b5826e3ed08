"""The commands with their descriptions and modules."""

COMMANDS = {
    "check": "check data before training: leaks, copies, wrong labels",
    "prepare": "write data as shards, to train on more than fits in memory",
    "fit": "train a model, save checkpoints, and test the best one",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on the test split",
    "predict": "write the predictions of a checkpoint to predictions.csv",
    "repeat": "train with several seeds, and summarize the metrics",
    "tune": "search hyperparameters with Optuna",
    "runs": "list runs, show one, or compare several",
    "export": "export a checkpoint to a deployment format, and verify its outputs",
    "schema": "write the JSON Schema of recipes, for editors",
    "serve": "serve predictions over HTTP, with a web page to try the model",
    "new": "create a project that imports this package",
}
# Modules of commands whose options are the arguments of a function with the same name.
FUNCTIONS = {
    "export": "kindling.deploy.export",
    "schema": "kindling.cli.schema",
    "serve": "kindling.deploy.serve",
}
# Modules of the other commands, with a function `run(command, options)`.
MODULES = {
    "check": "kindling.cli.check",
    "prepare": "kindling.cli.prepare",
    "fit": "kindling.cli.lightning_cli",
    "validate": "kindling.cli.lightning_cli",
    "test": "kindling.cli.lightning_cli",
    "predict": "kindling.cli.lightning_cli",
    "repeat": "kindling.cli.repeat",
    "tune": "kindling.cli.tune",
    "runs": "kindling.cli.runs",
    "new": "kindling.cli.new",
}
