"""From images of many layouts to a packed data set: readers → ImageSource → pack → verify."""
