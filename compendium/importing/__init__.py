"""Bone labels of public data sets, or of anyone, made into a cohort of joint masks."""
