package drill

import "io"

func draw(w io.Writer, r *Record, file, hash string) error { return nil }
