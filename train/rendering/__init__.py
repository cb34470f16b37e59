"""Synthetic training images: 3-D models, rendered on the CPU, without a display.

cars            the embedded data set: procedural cars, and simulated photos of them
model_renders   a data set from a folder of models
styles          from which ranges a scene is drawn;  scene  the numbers of one image;  photograph  from both to pixels
cad_models      models from files;  orientation  which way they stand
procedural_car  a car from proportions (car_proportions), as a mesh (car_bodies), with equipment (car_decals)
mesh, raster    triangles to pixels;  shading  light;  backdrops  what is behind;  photo_effects  what a camera adds
"""
