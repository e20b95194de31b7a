#!/usr/bin/env bash
# Trains the networks in demo/checkpoints from scratch:
#
#     make demo-checkpoints PORTRAITS=photos SPEAKERS=videos [WORK=folder]
#
# PORTRAITS holds photographs, SPEAKERS holds <speaker>/<clip>.mp4 of the GRID corpus, both with the landmarks.npz of
# demo/landmarks.py. WORK gets all intermediate files (5 GB) and can be deleted afterwards; steps finished there are not
# repeated. On one H200 with 16 cores it takes about 15 minutes, on two CPU cores days.
# demo/splits lists the speakers of each corpus; photographs from 800 on and held_out.txt are used for no training.
#
# SHARE=0.01 OUT=folder does a hundredth of it, in another WORK, to check that all of it runs; its networks are useless.
set -euo pipefail
portraits=$1 speakers=$2 work=$3 python=${PYTHON:-.venv/bin/python}
splits=demo/splits workers=${WORKERS:-$(nproc)} out=${OUT:-demo/checkpoints}

if [ -n "${SHARE:-}" ] && [ -z "${OUT:-}" ]; then
    echo "error: SHARE makes useless networks; give a folder for them with OUT" >&2
    exit 2
fi

of() { # a number of clips or steps, or the SHARE of it
    awk -v all="$1" -v share="${SHARE:-1}" 'BEGIN { some = int(all * share + 0.5); print some ? some : 1 }'
}

corpus() { # name, seed, photographs, speakers, clips, further arguments
    local name=$1 seed=$2 choice=$3 only=$4 clips=$5
    shift 5
    # shellcheck disable=SC2046
    $python -m demo.talking_portrait --portraits "$portraits" --speakers "$speakers" --out "$work/data/$name" \
        --seed "$seed" --choice "$choice" --only $(cat "$only") --clips "$(of "$clips")" --workers "$workers" "$@"
}
corpus learned 1 0:600 $splits/expert.txt 5000 --real "$(of 2)" --heads "$(of 300)"
corpus judged 500 600:800 $splits/judge.txt 1600 --real "$(of 2)"
corpus held_out 900 800:879 $splits/held_out.txt 160 --real 1

# One root and two lists: clips to train one network on, and clips that no network is trained on.
lists() { # name
    mkdir -p "$work/lists/$1" "$work/faces"
    for split in "$1" held_out; do
        for folder in "$work/data/$split"/*/; do
            ln -sfn "$(realpath "$folder")" "$work/faces/${split}_$(basename "$folder")"
        done
    done
    (cd "$work/faces" && ls -d "$1"_*/*/truth.json) | sed 's,/truth.json,,' > "$work/lists/$1/train.txt"
    (cd "$work/faces" && ls -d held_out_*/*/truth.json) | sed 's,/truth.json,,' > "$work/lists/$1/val.txt"
}
lists learned
lists judged
newest() { ls "$work/$1"/checkpoint_step*.pth | tail -1; }

# Every face in a batch is compared with every voice. The expert stays at chance for the first 500 steps or so.
expert() { # name, corpus, seed, width, batch, last step, learning rate
    $python color_syncnet_train.py --data_root "$work/faces" --filelists "$work/lists/$2" --checkpoint_dir "$work/$1" \
        --seed "$3" --resume --keep 2 --max_steps "$(of "$6")" --hparams "width=$4,syncnet_batch_size=$5,windows_per_clip=8,\
syncnet_lr=$7,ema_decay=0.998,augment_mirror=0.5,augment_shift=0.05,augment_zoom=0.07,augment_brightness=0.08,\
augment_contrast=0.15,augment_colour=0.08,augment_blur=0.6,syncnet_eval_steps=16,\
syncnet_eval_interval=$(of 500),syncnet_checkpoint_interval=$(of 500)"
}
expert expert learned 1 0.5 128 5000 5e-4
expert expert learned 1 0.5 128 6000 1e-4
expert judge judged 3 0.25 64 3500 5e-4 # never used as a loss: it only scores the generator, which is trained with the other
expert judge judged 3 0.25 64 4500 1.5e-4

# The generator is first trained without, then with the discriminator. Its reference pictures show the same moment with
# another mouth (twin.txt), its mel windows start where those of inference do (mel_lead=0), and the losses of the mouth,
# its motion and the expert's features have extra weight.
generator() { # script, folder, last step, settings, further arguments
    local script=$1 folder=$2 steps=$3 settings=$4
    shift 4
    $python "$script" --data_root "$work/faces" --filelists "$work/lists/learned" --checkpoint_dir "$work/$folder" \
        --syncnet_checkpoint_path "$(newest expert)" --judge_checkpoint_path "$(newest judge)" --keep 2 --seed 1 \
        --max_steps "$(of "$steps")" --hparams "width=0.5,batch_size=32,mel_lead=0,mouth_wt=3,motion_wt=0.5,feature_wt=0.03,\
audio_from_expert=true,ema_decay=0.998,eval_interval=$(of 500),checkpoint_interval=$(of 500),eval_steps=8,hq_eval_steps=8,$settings" \
        "$@"
}
from() { # the flag that resumes a folder's run, or starts it from a checkpoint
    if ls "$work/$1"/checkpoint_step*.pth > /dev/null 2>&1; then echo --resume; else echo --checkpoint_path "$2"; fi
}
generator wav2lip_train.py drawing 3300 "initial_learning_rate=4e-4,syncnet_wt=0.01" --resume
# shellcheck disable=SC2046
generator hq_wav2lip_train.py generator 5900 "initial_learning_rate=2e-4,disc_initial_learning_rate=2e-4,disc_wt=0.04,\
syncnet_wt=0.02" $(from generator "$(newest drawing)")
generator hq_wav2lip_train.py generator 6400 "initial_learning_rate=5e-5,disc_initial_learning_rate=1e-4,disc_wt=0.04,\
syncnet_wt=0.02" --resume
# Then the teeth, with a new and narrower discriminator: the expert sees grey pictures, and its loss weighs less.
# shellcheck disable=SC2046
generator hq_wav2lip_train.py teeth 10000 "initial_learning_rate=1e-4,disc_initial_learning_rate=2e-4,disc_wt=0.07,disc_width=0.25,\
syncnet_wt=0.012,sync_grey=true,motion_wt=0,feature_wt=0,frozen_norms=true,batch_size=4,ema_decay=0.995" $(from teeth "$(newest generator)")
# Finally heads that turn and tilt: lips stay in one piece, where the discriminator's network doubled them.
# shellcheck disable=SC2046
generator wav2lip_train.py poses 15500 "initial_learning_rate=4e-4,lr_decay_steps=$(of 16500),mouth_wt=2,detail_wt=2,\
syncnet_wt=0.012,sync_grey=true,motion_wt=0,feature_wt=0,frozen_norms=true,batch_size=8" $(from poses "$(newest teeth)")

mkdir -p "$work/speech" "$out"
$python -m demo.export expert "$(newest expert)" "$out/expert.pth"
$python -m demo.export expert "$(newest judge)" "$out/judge.pth"
# Fit how far it opens mouths, from a few of the voices that it was trained on.
for voice in $(shuf --random-source=<(yes) -n 40 "$work/lists/learned/train.txt"); do
    ln -sfn "$(realpath "$work/faces/$voice/audio.wav")" "$work/speech/${voice//\//_}.wav"
done
# Three parts of the last stage and two of the one before: its lips, with the other's teeth.
poses=$(newest poses) teeth=$(newest teeth)
$python -m demo.export generator "$poses" "$poses" "$poses" "$teeth" "$teeth" "$out/generator.pth" --pads 0 0 0 0 --blend feather \
    --reference matching --gain 1.2 --speech "$work"/speech/*
