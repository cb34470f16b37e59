"""The embedded data set: cars rendered from parametric bodies, on the CPU, without a display.

cars            the set and its files
car_bodies      shapes of the classes;  car_decals  what is painted on them
raster          triangles to pixels;  shading  light;  backdrops  what is behind
photo_effects   camera and degradation: studio render or simulated photo
"""
