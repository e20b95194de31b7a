#!/usr/bin/env bash
# Trains the networks in demo/checkpoints from nothing: make demo-checkpoints [WORK=folder]
#
# WORK holds everything on the way (2 GB) and can be deleted afterwards; whatever is finished there is not done again.
set -euo pipefail
work=$1 python=.venv/bin/python
faces=$work/faces lists=$work/lists

# 500 heads, 1000 utterances; a tenth of the heads are kept for validation.
$python -m demo.talking_head --out "$work/videos" --clips 1000 --seed 1 --seconds 2.4 --size 192x192
$python preprocess.py --data_root "$work/videos" --preprocessed_root "$faces" --face_detector haar \
    --split 0.9,0.1,0 --filelists "$lists"

# A network that starts on all heads at once learns how people differ before it notices that lips have to do with sound:
# the expert still guesses, and the generator still copies the mouth it is shown, after a thousand steps. On twelve heads
# both get the point within a few hundred, and keep it when they go on to all the others. The last steps are smaller, and
# of the expert's weights a running mean is kept.
few() { # filelists
    mkdir -p "$1/few"
    head -24 "$1/train.txt" > "$1/few/train.txt"
    cp "$1/val.txt" "$1/few/"
}
newest() { ls "$work/$1"/checkpoint_step*.pth | tail -1; }
few "$lists"

expert() { # folder, seed, width, steps
    train() { # filelists, last step, learning rate
        $python color_syncnet_train.py --data_root "$faces" --checkpoint_dir "$work/$name" --filelists "$1" \
            --seed "$seed" --resume --keep 2 --max_steps "$2" --hparams "width=$width,syncnet_lr=$3,augment_mirror=0.5,\
ema_decay=0.995,num_workers=1,syncnet_eval_interval=200,syncnet_checkpoint_interval=200,syncnet_eval_steps=24"
    }
    name=$1 seed=$2 width=$3
    train "$lists/few" 200 2e-4
    train "$lists" "$4" 5e-4
    train "$lists" "$(($4 + 500))" 1e-4
}
expert expert 1 0.25 8000
expert judge 0 0.375 3000 # never used as a loss: it only scores what the generator learns from the other

# Its mels start where inference's do (mel_lead=0). First it learns to draw; the sync loss has a small share from then on,
# for with a large one it learns textures that please the expert instead of lips.
generator() { # filelists, last step, learning rate, sync weight
    $python wav2lip_train.py --data_root "$faces" --checkpoint_dir "$work/generator" --filelists "$1" \
        --syncnet_checkpoint_path "$(newest expert)" --judge_checkpoint_path "$(newest judge)" --resume --keep 4 \
        --max_steps "$2" --hparams "width=0.25,batch_size=8,initial_learning_rate=$3,syncnet_wt=$4,mel_lead=0,\
audio_from_expert=true,num_workers=1,eval_interval=300,checkpoint_interval=300,eval_steps=6"
}
generator "$lists/few" 1200 5e-4 0
generator "$lists" 7200 4e-4 0.002
generator "$lists" 9600 2e-4 0.002
generator "$lists" 10500 5e-5 0.002

$python -m demo.export expert "$(newest expert)" demo/checkpoints/expert.pth
$python -m demo.export generator "$(newest generator)" demo/checkpoints/generator.pth
$python -m demo.export expert "$(newest judge)" demo/checkpoints/judge.pth
