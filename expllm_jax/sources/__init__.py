"""Where faces come from. Every source yields `faces.Annotation`; today that is `rendered`, faces with exact
unit truth.
"""
