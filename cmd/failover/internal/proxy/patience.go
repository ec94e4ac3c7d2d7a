package proxy

import (
	"io"
	"net/http"
	"time"
)

// patience is how long the proxy waits for a caller: for the next piece of its body, or until it
// accepts a piece of the answer. A whole request or answer may take hours.
const patience = 2 * time.Minute

// patient bounds the wait for each piece of the bodies that next reads and writes. It requires
// HTTP/1, and a server without ReadTimeout and WriteTimeout.
func patient(next http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			// In a copy, because the body of the server's own request tells the server
			// whether the caller still waits for a 100 Continue.
			own := *r
			own.Body = &patientBody{r.Body, control, limit}
			r = &own
		}
		next.ServeHTTP(&patientWriter{w, control, limit}, r)
	})
}

type patientBody struct {
	io.ReadCloser
	control *http.ResponseController
	limit   time.Duration
}

func (b *patientBody) Read(p []byte) (int, error) {
	b.control.SetReadDeadline(time.Now().Add(b.limit))
	// A deadline that stayed would end the server's watch for callers that disconnect.
	defer b.control.SetReadDeadline(time.Time{})
	return b.ReadCloser.Read(p)
}

type patientWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	limit   time.Duration
}

func (w *patientWriter) Write(p []byte) (int, error) {
	w.control.SetWriteDeadline(time.Now().Add(w.limit))
	defer w.control.SetWriteDeadline(time.Time{})
	return w.ResponseWriter.Write(p)
}

func (w *patientWriter) FlushError() error {
	w.control.SetWriteDeadline(time.Now().Add(w.limit))
	defer w.control.SetWriteDeadline(time.Time{})
	return w.control.Flush()
}

// Unwrap serves http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
