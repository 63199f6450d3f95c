"""A CT phantom of the sacroiliac joints. Everything follows from one seed; nothing here knows of networks.

    anatomy   pelvis, other_bones, pelvis_tables: bones drawn from parameters; anatomy: bones of a label map
    tissue    tissue, organs: HU of fat, muscles, organs and bone around and in them
    disease   disease: sacroiliitis of each joint, grade 0 to 4
    scanner   scanner, projection: grid, point spread, noise, beam hardening, metal artefacts

`phantom.make_phantom` goes from first to last, `cohort` writes many phantoms, `likeness` imitates scans.
`shapes` and `fields` hold the geometry: signed distances in mm, and smooth functions of space.
"""
