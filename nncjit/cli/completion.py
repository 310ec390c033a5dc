"""Print a script that completes verbs, options and files in a shell.

bash   source <(nncjit completion bash)
zsh    source <(nncjit completion zsh)
fish   nncjit completion fish | source
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

SHELLS = ("bash", "zsh", "fish")


def configure(parser: ArgumentParser) -> None:
    """The verb's arguments."""
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(args: Namespace) -> None:
    """Print one script."""
    from nncjit.cli.main import VERBS, options_of

    flags = {verb: options_of(verb) for verb in VERBS}
    print(_fish(VERBS, flags) if args.shell == "fish" else _bash(flags, zsh=args.shell == "zsh"))


def _bash(flags: dict[str, list[str]], *, zsh: bool) -> str:
    cases = "\n".join(f'        {verb}) words="{" ".join(options)}" ;;' for verb, options in flags.items())
    first = "autoload -U +X bashcompinit && bashcompinit\n" if zsh else ""
    return f"""{first}_nncjit() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} words=""
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "{" ".join(flags)}" -- "$current"))
        return
    fi
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
    case "$current" in
        -*) COMPREPLY=($(compgen -W "$words" -- "$current")) ;;
        *) COMPREPLY=($(compgen -f -- "$current")) ;;
    esac
}}
complete -o filenames -F _nncjit nncjit"""


def _fish(verbs: dict[str, str], flags: dict[str, list[str]]) -> str:
    lines = [f"complete -c nncjit -n __fish_use_subcommand -f -a {verb} -d '{does}'" for verb, does in verbs.items()]
    for verb, options in flags.items():
        seen = f"complete -c nncjit -n '__fish_seen_subcommand_from {verb}'"
        lines += [f"{seen} -l {option[2:]}" for option in options if option.startswith("--")]
    return "\n".join(lines)
