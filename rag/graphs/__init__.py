"""Knowledge graphs: build, resolve, embed, walk, query."""
