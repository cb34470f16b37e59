#!/usr/bin/env bash
# Renders the sets that docs/cars.md compares, into CARS, which holds models/, backgrounds/ and renders/:
#
#     benchmarks/car_renders.sh CARS
#
# An interrupted rendering goes on where it stopped.
set -euo pipefail
cars=$1

render() {  # NAME MODELS, and what else `dann data render` takes
    dann data render --out "$cars/$1" --models "$2" "${@:3}"
}

join() {  # NAME SETS…: one set with the images of all
    for class in hatchback pickup sedan suv van; do
        for set in "${@:2}"; do
            mkdir -p "$cars/$1/$class/$set"
            cp -r "$cars/$set/$class/." "$cars/$1/$class/$set"
        done
    done
}

render cad "$cars/models" --backgrounds "$cars/backgrounds" --per-class 600 --set stretch=0.2
render procedural cars --backgrounds "$cars/backgrounds" --per-class 2000
join rendered cad procedural
join all renders cad procedural

# One choice of the renderer changed at a time, in sets of 3,000 images.
photos=(--backgrounds "$cars/backgrounds" --per-class 600)
render choice-none cars "${photos[@]}"
render choice-one-light cars "${photos[@]}" --set key=[0.65,0.65] --set key_elevation_deg=[55,55] --set ambient=[0.6,0.6] \
    --set warmth=[0,0] --set shadow=[0.5,0.5] --set skyline=[0.2,0.2]
render choice-one-paint cars "${photos[@]}" --set saturation=[0,0] --set value=[0.6,0.6] --set gloss=[0.5,0.5]
render choice-no-camera-effects cars "${photos[@]}" --set defocus=[0,0] --set motion=[0,0] --set black=none \
    --set exposure=[0,0] --set cast=0 --set contrast=[1,1] --set vignette=[0,0] --set noise=[0,0] --set jpeg=none
render choice-drawn-streets cars --per-class 600
render choice-empty-backdrops cars --per-class 600 --set studio=1
render choice-not-cropped cars "${photos[@]}" --set margin=none --set fill=[0.5,0.9] --set shift=0.6
render choice-from-above cars "${photos[@]}" --set elevation_deg=[10,35] --set focal_mm=[95,180]
render choice-studio-look cars --look studio --per-class 600
render choice-few-shapes "$cars/models" "${photos[@]}"

# Do all seven classes separate?
seven=(--classes coupe,hatchback,pickup,sedan,suv,van,wagon --backgrounds "$cars/backgrounds")
render seven cars "${seven[@]}" --per-class 500
render seven-test cars "${seven[@]}" --per-class 100 --seed 9
