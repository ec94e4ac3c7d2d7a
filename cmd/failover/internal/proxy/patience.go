package proxy

import (
	"io"
	"net/http"
	"time"
)

// patience is how long a caller may keep the proxy waiting: for the next piece of
// its body, or until it takes a piece of the answer. There is no limit to the
// whole of a request or answer, which may go on for hours.
const patience = 2 * time.Minute

// patient bounds the wait for each piece of the bodies that next reads and
// writes. It needs HTTP/1, and no ReadTimeout or WriteTimeout of the server.
func patient(next http.Handler, limit time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		control := http.NewResponseController(w)
		if r.Body != nil && r.Body != http.NoBody {
			// In a copy: by the body of its own request, the server knows whether
			// the caller still waits to be told to send it.
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
	// Not left standing: it would end the server's watch for callers that go.
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

// Unwrap is for http.ResponseController.
func (w *patientWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
