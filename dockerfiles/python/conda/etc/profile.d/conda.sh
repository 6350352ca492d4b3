# Sourced by scripts, also under `set -u`: gives the shell a `conda` that activates the one virtualenv.
conda() {
    case "${1:-}" in
        activate)
            export VIRTUAL_ENV=/opt/miniconda3/envs/testbed CONDA_PREFIX=/opt/miniconda3/envs/testbed
            export CONDA_DEFAULT_ENV=testbed
            case ":$PATH:" in
                :/opt/miniconda3/envs/testbed/bin:*) ;;
                *) export PATH="/opt/miniconda3/envs/testbed/bin:$PATH" ;;
            esac
            hash -r
            ;;
        deactivate) ;;
        *) /opt/miniconda3/bin/conda "$@" ;;
    esac
}
