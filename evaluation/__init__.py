"""What an evaluation is made of.  Importing this package imports no Keras; what needs it imports it when it is called.

predictions  the faces of a split, what networks predict for them, and the table of the predictions
figures      accuracy and its interval, calibration, what disturbances cost, what heat maps are worth
pictures     the confusion matrix, the calibration, and the worst mistakes
"""
