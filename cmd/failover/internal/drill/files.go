package drill

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// reportFiles are the two files of a report.
type reportFiles struct{ html, json *os.File }

// reserve creates the files. It replaces no existing file.
func reserve(path string) (*reportFiles, error) {
	f := &reportFiles{}
	for _, e := range []struct {
		ext  string
		file **os.File
	}{{".html", &f.html}, {".json", &f.json}} {
		file, err := os.OpenFile(path+e.ext, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		switch {
		case errors.Is(err, fs.ErrExist):
			f.remove()
			return nil, fmt.Errorf("%s already exists: choose another path with -out", path+e.ext)
		case err != nil:
			f.remove()
			return nil, fmt.Errorf("cannot write the report: %w; choose another path with -out", err)
		}
		*e.file = file
	}
	return f, nil
}

// remove removes the files, if there is nothing to report.
func (f *reportFiles) remove() {
	for _, file := range []*os.File{f.html, f.json} {
		if file != nil {
			file.Close()
			os.Remove(file.Name())
		}
	}
}

func (f *reportFiles) paths() []string { return []string{f.html.Name(), f.json.Name()} }

// write writes the record, and the report, which has the hash of the record.
func (f *reportFiles) write(r *Record) error {
	record, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	record = append(record, '\n')
	var page bytes.Buffer
	if err := draw(&page, r, filepath.Base(f.json.Name()), fmt.Sprintf("%x", sha256.Sum256(record))); err != nil {
		return err
	}
	_, err1 := f.json.Write(record)
	_, err2 := f.html.Write(page.Bytes())
	return errors.Join(err1, err2, f.json.Close(), f.html.Close())
}
