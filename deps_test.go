package failover

import (
	_ "github.com/cenkalti/backoff/v4"
	_ "github.com/sony/gobreaker/v2"
	_ "github.com/stretchr/testify/require"
)
