// Runs the npm package oidc-provider as a token issuer: node serve.mjs PORT KEYS AUDIENCE SCOPES
// KEYS is a file with a private JWK set, whose first key signs. A token for the resource urn:orders is a JWT.
import { readFileSync } from 'node:fs';
import Provider from 'oidc-provider';

const [port, keys, audience, scope] = process.argv.slice(2);
const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: JSON.parse(readFileSync(keys, 'utf8')),
  scopes: scope.split(' '),
  clients: [
    {
      client_id: 'shop',
      client_secret: 'a secret of the tests',
      grant_types: ['client_credentials'],
      redirect_uris: [],
      response_types: [],
    },
  ],
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    resourceIndicators: {
      enabled: true,
      defaultResource: () => undefined,
      getResourceServerInfo: () => ({
        scope,
        audience,
        accessTokenFormat: 'jwt',
        jwt: { sign: { alg: 'RS256' } },
      }),
    },
  },
});
provider.listen(Number(port), '127.0.0.1', () => console.log('listening'));
