"""The command line: ``nncjit VERB ...``. One file a verb, one row in `nncjit.cli.main.VERBS`."""
