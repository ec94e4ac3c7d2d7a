module github.com/d365failover/failover/internal/suites

go 1.26.0
