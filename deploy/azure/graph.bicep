// Grants the worker's identity the application permission User.RevokeSessions.All in Microsoft Graph,
// and those of optionalPermissions, which only some settings need. The assignment is the admin consent. The deployment needs the Entra role Privileged Role
// Administrator.
//
//   az deployment group create --resource-group RG --template-file deploy/azure/graph.bicep --parameters workerPrincipalId=…

extension microsoftGraphV1

@description('Object ID of the worker\'s identity: main.bicep\'s output workerPrincipalId.')
param workerPrincipalId string

@description('Further permissions: User.Read.All for graph.read_users; DeviceManagementManagedDevices.Read.All and Device.Read.All for events.resolve_devices.')
@allowed(['User.Read.All', 'DeviceManagementManagedDevices.Read.All', 'Device.Read.All'])
param optionalPermissions array = []

resource graph 'Microsoft.Graph/servicePrincipals@v1.0' existing = {
  appId: '00000003-0000-0000-c000-000000000000'
}

resource mayRevoke 'Microsoft.Graph/appRoleAssignedTo@v1.0' = {
  resourceId: graph.id
  principalId: workerPrincipalId
  appRoleId: filter(graph.appRoles, role => role.value == 'User.RevokeSessions.All')[0].id
}

resource mayRead 'Microsoft.Graph/appRoleAssignedTo@v1.0' = [for permission in optionalPermissions: {
  resourceId: graph.id
  principalId: workerPrincipalId
  appRoleId: filter(graph.appRoles, role => role.value == permission)[0].id
}]
