"""The commands: what each does, and where it is."""

COMMANDS = {
    "fit": "train a model, keep its best and last checkpoints, test the best",
    "validate": "measure a checkpoint on the validation split",
    "test": "measure a checkpoint on the test split",
    "predict": "write the classes and probabilities that a checkpoint predicts to predictions.csv",
    "runs": "list what was trained; show one run, or compare several",
    "export": "write a checkpoint as a file that other programs run, proven to be equal",
    "schema": "write the JSON Schema of recipes, with which editors complete and check them",
    "serve": "answer over HTTP, with a page to try the model on",
    "new": "write a project of your own that imports this package",
}
# Commands whose options are the arguments of a function of the same name, with its module.
FUNCTIONS = {
    "export": "kindling.deploy.export",
    "schema": "kindling.cli.schema",
    "serve": "kindling.deploy.serve",
}
# Modules of the other commands, each with a function `run` that takes the name of the command and its options.
MODULES = {
    "fit": "kindling.cli.lightning_cli",
    "validate": "kindling.cli.lightning_cli",
    "test": "kindling.cli.lightning_cli",
    "predict": "kindling.cli.lightning_cli",
    "runs": "kindling.cli.runs",
    "new": "kindling.cli.new",
}
