"""The command line: ``nncjit VERB ...``. Each verb is a module here and a row of `nncjit.cli.main.VERBS`."""
