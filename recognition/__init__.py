"""What the live script is made of: it finds faces, follows them, names their emotions, draws and records."""
