"""Files of faces: how data sets are found and read, before their images become faces of one size.

labels    the names of emotions and splits
images    image files, and the folders of a data set
tables    FER2013's CSV, parquet files
location  the file or the folder that a path stands for
votes     FER+, the votes on FER2013's images
"""
