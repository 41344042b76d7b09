package app

import (
	"context"
	"errors"
	"io"

	"github.com/Azure/azure-sdk-for-go/sdk/messaging/azservicebus"

	"github.com/session-revoker/session-revoker/audit/publish"
	"github.com/session-revoker/session-revoker/config"
)

// auditConfig says where the audit log is kept.
func auditConfig(cfg config.Config) publish.Config {
	return publish.Config{File: cfg.Audit.File, KeyFile: cfg.Audit.KeyFile, Topic: cfg.Audit.Topic}
}

// OpenOperatorLog opens the audit log of an operator's command; see publish.OpenOperatorLog.
func OpenOperatorLog(ctx context.Context, cfg config.Config, stderr io.Writer) (*publish.OperatorLog, error) {
	return publish.OpenOperatorLog(ctx, auditConfig(cfg), stderr, func() (*azservicebus.Client, error) {
		if cfg.ServiceBus.ConnectionString == "" && cfg.ServiceBus.Namespace == "" {
			return nil, errors.New("needs servicebus.namespace or a connection string")
		}
		return NewServiceBus(cfg)
	})
}
