package telemetry

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Server is the operations port with /healthz, /readyz, and /metrics. It has no access control:
// keep it inside the cluster.
type Server struct {
	http *http.Server
	done chan error
}

// Serve answers requests on l until Close is called. metrics is a registry.
func Serve(l net.Listener, health *Health, metrics prometheus.Gatherer) *Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", health.ServeLive)
	mux.HandleFunc("GET /readyz", health.ServeReady)
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	s := &Server{
		http: &http.Server{
			Handler:           mux,
			ReadHeaderTimeout: 5 * time.Second,
			ReadTimeout:       10 * time.Second,
			WriteTimeout:      30 * time.Second,
			IdleTimeout:       time.Minute,
			MaxHeaderBytes:    16 << 10,
		},
		done: make(chan error, 1),
	}
	go func() { s.done <- s.http.Serve(l) }()
	return s
}

// Close waits until requests in flight have ended or ctx ends. It returns when the port is closed.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	if serveErr := <-s.done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}
