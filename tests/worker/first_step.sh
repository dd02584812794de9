#!/usr/bin/env bash
# The first step of AdamW without decay moves each weight by the learning rate, whatever its gradient and the betas: the bias
# corrections take back exactly what the moments hold. Usage: first_step.sh WORKER
worker=$1
. "$(dirname "$0")/worker_trials.sh"

for beta2 in 0.5 0.98 0.999 0.9999; do
    ends 0 alone "beta-$beta2" --set train.steps=1 --set optimizer.lr=1 --set optimizer.weight_decay=0 \
        --set optimizer.clip=0 --set optimizer.epsilon=1e-20 --set optimizer.beta2=$beta2
    file=$work/beta-$beta2/checkpoints/step-0000000001/model.safetensors
    header=$(od -An -tu8 -N8 "$file" | tr -d ' ')
    read -r begin end < <(tail -c +9 "$file" | head -c "$header" |
        jq -r '.["layers.0.mlp.fc2.bias"].data_offsets | join(" ")')
    # They began as zeros.
    od -An -v -tf4 -w4 -j $((8 + header + begin)) -N $((end - begin)) "$file" |
        awk '{ n++; if (($1 ^ 2) < 0.99999 || ($1 ^ 2) > 1.00001) { print $1; bad = 1 } } END { exit bad || n != 32 }' ||
        fail "beta2 = $beta2: a first step that is not lr"
done
