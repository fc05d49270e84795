"""EnCodec: audio to codes and back, one clip at a time."""
