package failover

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/d365failover/failover/internal/ascii"
)

// A code describes an error code of the organization service.
type code struct {
	name     string
	class    Class
	delivery Delivery
}

// Codes with a rule of their own.
const (
	codeUnexpected      = 0x80040216 // the platform's "unexpected error", which proves nothing
	codeGenericSQL      = 0x80044150
	codePluginFirst     = 0x80048D02 // plug-ins that chose their own status ...
	codePluginLast      = 0x80048D11
	codePluginException = 0x80040265 // ... or threw InvalidPluginExecutionException
	codePluginAborted   = 0x80040224
)

// codes lists the exceptions to the rule that an organization which answers with a code is
// healthy. Source: Microsoft's "Web service error codes" page and live answers. A code is
// Refused if the service decides it before the operation runs (fences, service protection
// limits), and Unknown if the operation may continue or may have been committed (timeouts, lost
// connections, crashes).
var codes = map[uint32]code{
	0x8004B065: {"DatacenterNotAvailable", ClassUnavailable, Refused}, // this datacenter does not serve the organization
	0x8004A104: {"OrganizationDisabled", ClassUnavailable, Refused},   // also while it is copied, restored or moved
	0x8004A107: {"ScaleGroupDisabled", ClassUnavailable, Refused},     // every organization of the scale group
	0x8004D253: {"OrganizationNotConfigured", ClassUnavailable, Refused},
	0x8004A113: {"UserDoesNotHaveAdminOnlyModePermissions", ClassUnavailable, Answered}, // administration mode, and the caller is no administrator
	0x8004B044: {"OrganizationMigrationUnderway", ClassUnavailable, Answered},
	0x8004415C: {"LicenseTrialExpired", ClassUnavailable, Answered},
	0x8004415D: {"LicenseRegistrationExpired", ClassUnavailable, Answered},
	0x8004415F: {"LicenseTampered", ClassUnavailable, Answered},

	0x80072321: {"ThrottlingTimeExceededError", ClassThrottled, Refused},
	0x80072322: {"ThrottlingBurstRequestLimitExceededError", ClassThrottled, Refused},
	0x80072326: {"ThrottlingConcurrencyLimitExceededError", ClassThrottled, Refused},
	0x80072327: {"DSSThrottlingConcurrencyLimitExceededError", ClassThrottled, Refused},
	0x80072323: {"AzureSqlDatabaseResourceLimitExceededError", ClassThrottled, Answered}, // load of the database, not a quota of the caller
	0x80072324: {"AzureSqlMaxConcurrentWorkersLimitExceededError", ClassThrottled, Answered},
	0x8004A001: {"CrmSqlGovernorDatabaseRequestDenied", ClassThrottled, Answered},
	0x80048544: {"DataEngineQueryThrottling", ClassThrottled, Answered},
	0x80060308: {"SearchRateLimitExceeded", ClassThrottled, Answered},
	0x8005F103: {"Throttling", ClassThrottled, Answered},
	0x80060916: {"AsyncOperationTypeThrottled", ClassThrottled, Answered},
	0x80060917: {"AsyncOperationPostponedByExceptionCountThrottle", ClassThrottled, Answered},
	0x80060561: {"RollupCalculationLimitReached", ClassThrottled, Answered},
	0x8005F034: {"ErrorMigrationProcessExcessOnServer", ClassThrottled, Answered},

	0x8004A100: {"InvalidAuthTicket", ClassAuth, Answered},
	0x8004A101: {"ExpiredAuthTicket", ClassAuth, Answered},
	0x8004A102: {"BadAuthTicket", ClassAuth, Answered},
	0x8004A103: {"InsufficientAuthTicket", ClassAuth, Answered},
	0x8004A105: {"TamperedAuthTicket", ClassAuth, Answered},
	0x8004A106: {"ExpiredKey", ClassAuth, Answered},
	0x8004A108: {"SupportLogOnExpired", ClassAuth, Answered},
	0x8004A110: {"CannotActOnBehalfOfAnotherUser", ClassAuth, Answered},
	0x8004A112: {"SystemUserDisabled", ClassAuth, Answered},
	0x8004A121: {"RestrictedToAccessCDSLiteNonOdataEndpoint", ClassAuth, Answered},
	0x8004A122: {"WsTrustUsageError", ClassAuth, Answered},
	0x80041D50: {"InvalidOAuthToken", ClassAuth, Answered},
	0x80041D52: {"ExpiredOAuthToken", ClassAuth, Answered},
	0x80041D49: {"ApplicationNotRegisteredWithDeployment", ClassAuth, Answered},
	0x80041D37: {"GenericActiveDirectoryError", ClassAuth, Answered}, // the directory may be down; the other endpoint asks the same one
	0x80041D54: {"GenericAzureActiveDirectoryError", ClassAuth, Answered},
	0x80072559: {"AADError", ClassAuth, Answered},
	0x80072560: {"UserNotMemberOfOrg", ClassAuth, Answered},
	0x80072561: {"CAPolicyValidationFailedLateBind", ClassAuth, Answered},
	0x80072570: {"SSM_MaxPCI_Exceeded", ClassAuth, Answered},
	0x80072571: {"SSM_RefreshToken_Failed", ClassAuth, Answered},
	0x80095FFE: {"IPAddressNotInSpecifiedRange", ClassAuth, Answered},
	0x80095FFD: {"RequestIPMismatchWithSourceCookieIP", ClassAuth, Answered},
	0x80095FFC: {"ApplicationNotAllowed", ClassAuth, Answered}, // not in Microsoft's table; sent with 403 when the application id is not allowed
	0x80044300: {"MissingCrmAuthenticationToken", ClassAuth, Answered},
	0x80044308: {"MissingCrmAuthenticationTokenOrganizationName", ClassAuth, Answered},
	0x80044301: {"IntegratedAuthenticationIsNotAllowed", ClassAuth, Answered},
	0x80044302: {"RequestIsNotAuthenticated", ClassAuth, Answered},
	0x80044311: {"UnableToLogOnUserFromUserNameAndPassword", ClassAuth, Answered},
	0x80044502: {"InsufficientAccessMode", ClassAuth, Answered},
	0x80044507: {"UserDoesNotHaveAccessToTheTenant", ClassAuth, Answered},
	0x80048516: {"InvalidAuth", ClassAuth, Answered},
	0x80048D12: {"InvalidPrivateLinkIdentifier", ClassAuth, Answered},
	0x80048D1A: {"InvalidCallerId", ClassAuth, Answered},
	0x80040257: {"InvalidCaller", ClassAuth, Answered},
	0x80040245: {"CrmImpersonationError", ClassAuth, Answered},
	0x80040256: {"CrmSecurityError", ClassAuth, Answered},
	0x80040204: {"InvalidUserAuth", ClassAuth, Answered},
	0x80040277: {"UnauthorizedAccess", ClassAuth, Answered},
	0x8004020F: {"unManagedidsfailureinittoken", ClassAuth, Answered},
	0x80040226: {"unManagedidsanonymousenabled", ClassAuth, Answered},
	0x80040225: {"unManagedidsusernotenabled", ClassAuth, Answered},
	0x8004D24B: {"UserNotAssignedLicense", ClassAuth, Answered},
	0x80042F09: {"UserNotAssignedRoles", ClassAuth, Answered},
	0x80048405: {"AccessDenied", ClassAuth, Answered},
	0x80048306: {"unManagedIdsAccessDenied", ClassAuth, Answered},
	0x80040220: {"PrivilegeDenied", ClassAuth, Answered},
	0x80040231: {"PrincipalPrivilegeDenied", ClassAuth, Answered},
	0x80040276: {"PrivilegeCreateIsDisabledForOrganization", ClassAuth, Answered}, // writes switched off for the organization; reads work
	0x80048345: {"InsufficientPrivilegesSupportUser", ClassAuth, Answered},
	0x8004B061: {"InvalidToken", ClassAuth, Answered},
	0x8005F101: {"AccessTokenExpired", ClassAuth, Answered},
	0x8005F102: {"Forbidden", ClassAuth, Answered},
	0x80050300: {"CrmLicensingError", ClassAuth, Answered},
	0x80050301: {"CrmLicensingNoServicePlan", ClassAuth, Answered},
	0x80050302: {"CrmLicensingNoUserPass", ClassAuth, Answered},
	0x80050303: {"CrmLicensingNoRestrictedServicePlan", ClassAuth, Answered},
	0x80050304: {"CrmApiLicensingError", ClassAuth, Answered},
	0x80050305: {"CrmLicensingEnvironmentNotConfiguredForEntitlemenetBilling", ClassAuth, Answered},
	0x80050306: {"CrmLicensingAppNotEnabledForEntitlementBilling", ClassAuth, Answered},
	0x80050307: {"CrmLicensingNoAccessViaEntitlementBilling", ClassAuth, Answered},

	0x80044150: {"unManagedidssqlerror", ClassTransient, Answered}, // decided by the SQL number in the message, see sqlFault
	0x80044151: {"unManagedidssqltimeouterror", ClassTransient, Unknown},
	0x80042300: {"unManagedidsdataaccessunexpected", ClassTransient, Unknown},
	0x80073000: {"CrmSQLNetworkingError", ClassTransient, Unknown},
	0x80048559: {"DBConnectionOpenCircuitBreakerThrottling", ClassTransient, Answered}, // the service's own breaker is open: many failed database connections
	0x80048551: {"DBConnectionOrTransactionInitializationFailed", ClassTransient, Answered},
	0x80048561: {"DBTransactionFailedToStart", ClassTransient, Answered},
	0x80048560: {"InactiveDBTransactionTerminated", ClassTransient, Unknown},
	0x80048553: {"DBUpgradeCauseTimeout", ClassTransient, Unknown},
	0x80048543: {"SolutionImportCauseTimeout", ClassTransient, Unknown},
	0x80048554: {"SelfBlockedCauseTimeout", ClassTransient, Unknown},
	0x80048542: {"VersionedRowNotFoundInTempDB", ClassTransient, Answered},
	0x80072325: {"AzureSqlDatabaseStorageQuotaExceededError", ClassTransient, Answered},
	0x80044339: {"CouldNotObtainLockOnResource", ClassTransient, Answered},
	0x8004ED47: {"AppLockTimeout", ClassTransient, Unknown},
	0x8004026C: {"CannotCompleteLockRequest", ClassTransient, Answered},
	0x80048411: {"FailedToAquireLock", ClassTransient, Answered},
	0x80048D3D: {"CouldNotAcquireWriteLock", ClassTransient, Answered}, // while customizations are published, for minutes; not in Microsoft's table
	0x80040255: {"TransactionAborted", ClassTransient, Answered},       // rolled back, mostly after a deadlock
	0x8004C001: {"SqlErrorInStoredProcedure", ClassTransient, Answered},
	0x80072343: {"InvalidMetadataSqlOperation", ClassTransient, Answered},
	0x8004023E: {"OpenCrmDBConnection", ClassTransient, Answered},
	0x8004023F: {"InvalidConnectionString", ClassTransient, Answered},
	0x80040222: {"unManagedidsoutofmemory", ClassTransient, Answered},
	0x80072031: {"WorkerProcessCrashFailure", ClassTransient, Unknown},
	0x8004F045: {"RetryFailed", ClassTransient, Unknown},
	0x80072301: {"RetrieveOrganizationInfoUnexpectedError", ClassTransient, Answered},
	0x80072300: {"RetrieveUserLicenseUnexpectedError", ClassTransient, Answered},
	0x80072516: {"DSSInternalServerError", ClassTransient, Answered},
	0x8004418E: {"SandboxHostNotAvailable", ClassTransient, Answered},
	0x80044174: {"SandboxSdkListenerStartFailed", ClassTransient, Answered},
	0x80044171: {"SandboxClientPluginTimeout", ClassTransient, Unknown},
	0x80044172: {"SandboxHostPluginTimeout", ClassTransient, Unknown},
	0x80081116: {"SandboxWorkerThrottleLimit", ClassTransient, Answered}, // crashed plug-in workers are being replaced
	0x8004810E: {"AsyncCascadeRetriableError", ClassTransient, Answered},
	0x80044306: {"AsyncNetworkError", ClassTransient, Unknown},
	0x80044307: {"AsyncCommunicationError", ClassTransient, Unknown},
	0x8004B068: {"ErrorConnectingToOrganizationService", ClassTransient, Unknown}, // one service did not reach another organization; no proof about this one
	0x8004B066: {"ErrorConnectingToDiscoveryService", ClassTransient, Unknown},
	0x8004B067: {"OrgDoesNotExistInDiscoveryService", ClassTransient, Answered},
	0x8004B030: {"CrmLiveOrganizationDetailsNotFound", ClassTransient, Answered},
	0x8004B059: {"CrmLiveAddOnOrgInNoUpdateMode", ClassTransient, Answered},
}

// definitive reports whether code n is a fence.
func definitive(n uint32) bool {
	switch n {
	case 0x8004B065, 0x8004A104, 0x8004A107, 0x8004D253:
		return true
	}
	return false
}

// fromPlugin reports whether custom code in the organization produces code n. Such code chooses
// status and text freely, so neither proves anything.
func fromPlugin(n uint32) bool {
	return n >= codePluginFirst && n <= codePluginLast || n == codePluginException || n == codePluginAborted
}

// codeNumber returns the number of an organization service code: an HRESULT of a failure
// (0x80......), in hexadecimal after 0x or in decimal, signed or not, with any number of leading
// zeros. The small negative numbers of gateways are none.
func codeNumber(s string) (uint32, bool) {
	s = strings.TrimSpace(s)
	if ascii.HasPrefixFold(s, "0x") {
		n, err := strconv.ParseUint(s[2:], 16, 64)
		if err != nil || n>>32 != 0 && n>>32 != 0xFFFFFFFF { // sign-extended to 64 bits is the same code
			return 0, false
		}
		return uint32(n), uint32(n)>>24 == 0x80
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < -1<<31 || n >= 1<<32 {
		return 0, false
	}
	return uint32(n), uint32(n)>>24 == 0x80
}

// formatCode returns a code as in [Fault.Code].
func formatCode(n uint32) string { return fmt.Sprintf("0x%08X", n) }

// codeStatus returns the client error status that a code merely repeats, such as "429" or
// "0x1ad".
func codeStatus(s string) (int, bool) {
	s, base := strings.TrimSpace(s), 10
	if ascii.HasPrefixFold(s, "0x") {
		s, base = s[2:], 16
	}
	n, _ := strconv.ParseUint(s, base, 16) // an error leaves 0 or the largest number
	return int(n), n >= 400 && n < 500
}

// limited reports whether a service protection limit refused the request, before any part of it
// ran.
func (f *Fault) limited() bool {
	n, _ := codeNumber(f.Code) // a code that is no number is not in the list
	return codes[n].class == ClassThrottled && codes[n].delivery == Refused
}

// sqlFault returns the class and delivery of a generic SQL error by the number in its message
// ("... Sql Number: 1205"). Numbers that are not about the infrastructure (missing tables,
// duplicate keys) are the caller's. Without a number, the error is transient.
func sqlFault(message string) (Class, Delivery) {
	const label = "sql number:"
	i := strings.LastIndex(ascii.Lower(message), label)
	if i < 0 {
		return ClassTransient, Unknown
	}
	digits := strings.TrimSpace(message[i+len(label):])
	if end := strings.IndexFunc(digits, func(r rune) bool { return r != '-' && (r < '0' || r > '9') }); end >= 0 {
		digits = digits[:end]
	}
	n, err := strconv.Atoi(digits)
	switch {
	case err != nil:
		return ClassTransient, Unknown
	case n == 1205: // deadlock victim: rolled back, and reported by the database
		return ClassTransient, Answered
	case sqlInfrastructure(n):
		return ClassTransient, Unknown
	}
	return ClassApplication, Answered
}

// sqlInfrastructure reports whether SQL error n is about connections, timeouts,
// resources or the state of the database. Source: Microsoft's "Troubleshoot
// transient connection errors in Azure SQL Database" and the retry lists of
// Microsoft.Data.SqlClient.
func sqlInfrastructure(n int) bool {
	switch n {
	case -2, -1, 0, 2, 20, 35, 53, 64, 121, 233, 258, 997, 10053, 10054, 10060, 10061, 11001, // network and timeouts
		615, 617, 669, 921, 926, 976, 978, 979, 983, 4060, 4221, 9001, 17142, 18401, // database not open, or moving
		3906,                                        // read-only: a geo-secondary
		701, 802, 845, 1101, 1105, 8645, 8651, 9002, // memory and space
		1203, 1204, 1221, 1222, 3935, 3960, 3966, 41301, 41302, 41305, 41325, 41839, // locks and snapshots
		10922, 10928, 10929, 10936, 40143, 40197, 40501, 40540, 40549, 40550, 40551, 40552, 40553, 40613, // Azure SQL
		42108, 42109, 49918, 49919, 49920, 49977, 49983:
		return true
	}
	return false
}
