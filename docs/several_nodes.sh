#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --requeue --open-mode=append --signal=B:TERM@120
# One run over several nodes, with a process a GPU:
#     sbatch --gpus-per-node=4 --time=04:00:00 docs/several_nodes.sh OUTPUT_DIR run_sent_clas.py --do_train ...
# Two minutes before its time limit, the run saves; the job is queued again, and goes on from there.
folder=$1
shift
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then  # what is there is this job's own
    for flag; do
        shift
        [ "$flag" = --overwrite_output_dir ] || set -- "$@" "$flag"
    done
fi
case " $* " in *" --overwrite_output_dir "*) ;; *) [ -e "$folder/results.json" ] && set -- "$@" --resume ;; esac
export MASTER_ADDR=${MASTER_ADDR:-$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)}
# Some versions of srun do not look at what sbatch was given.
[ -z "$SLURM_CPUS_PER_TASK" ] || export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))

stop() {
    stopped=yes
    scancel --signal=TERM "$SLURM_JOB_ID.0"
}
trap stop TERM
# shellcheck disable=SC2016  # each node fills in its own number
srun bash -c 'exec torchrun --nnodes "$SLURM_NNODES" --node_rank "$SLURM_NODEID" --master_addr "$MASTER_ADDR" \
    --master_port "$MASTER_PORT" --shutdown_timeout 100 --nproc_per_node "${SLURM_GPUS_ON_NODE:-1}" \
    "$@"' torchrun "$@" --output_dir "$folder" &
wait $!  # until it ends, or the signal comes
wait $!
status=$?
# Not after a plain scancel, whose signal comes here as well.
if [ -n "$stopped" ] && [ "$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)" = RUNNING ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
