#!/usr/bin/env bash
# Measures what each part of the generator's recipe brings: trains for some steps with all parts, without each of them,
# and with variants: more sync weight, a mask up to the eyes, the twin without the other parts, none of the parts.
#
#     [SEED=1] [EVERY=STEPS] benchmarks/ablations.sh WORK [STEPS [NAME...]]
#
# WORK is that of demo/train_checkpoints.sh, with at least its data and lists. Training starts from START, a network of
# width 0.25 that was trained on drawn heads only (default: the one of commit 69c64c1). 700 steps take one core 10
# minutes. WORK/ablations/SEED/STEPS/NAME.log has the figures, every EVERY steps and at the end.
set -euo pipefail
work=$1 steps=${2:-700} only=" ${*:3} " seed=${SEED:-1} python=${PYTHON:-.venv/bin/python}
every=${EVERY:-$steps} out=$work/ablations/$seed/$steps
mkdir -p "$out"
if [ -z "${START:-}" ]; then
    START=$out/start.pth
    git show 69c64c1:demo/checkpoints/generator.pth > "$START"
fi

try() { # name, settings that differ
    [[ $only = "  " || $only = *" $1 "* ]] || return 0
    echo "$1: $2"
    OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} $python wav2lip_train.py --data_root "$work/faces" \
        --filelists "$work/lists/learned" \
        --syncnet_checkpoint_path demo/checkpoints/expert.pth --judge_checkpoint_path demo/checkpoints/judge.pth \
        --checkpoint_path "$START" --checkpoint_dir "$out/$1" --keep 1 --seed "$seed" --max_steps "$steps" --precision bf16 \
        --hparams "width=0.25,batch_size=8,num_workers=0,mel_lead=0,mouth_wt=3,motion_wt=0.5,feature_wt=0.03,\
syncnet_wt=0.01,initial_learning_rate=4e-4,ema_decay=0.98,eval_interval=$every,checkpoint_interval=$every,eval_steps=30$2" \
        > "$out/$1.log" 2>&1
    tail -1 "$out/$1.log"
}
try all ""
try any_reference ",twin_reference=false"
try no_mouth_weight ",mouth_wt=1"
try no_motion ",motion_wt=0"
try no_features ",feature_wt=0"
try more_sync ",syncnet_wt=0.03"
try to_the_eyes ",mask_top=0.36"
try twin_alone ",mouth_wt=1,motion_wt=0,feature_wt=0"
try none ",twin_reference=false,mouth_wt=1,motion_wt=0,feature_wt=0"
