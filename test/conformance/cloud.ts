import type { CloudClient } from '#cli/cloud/client.ts';
import { testGuestImage } from '#test/support/guest-image.ts';
import { TestService } from '#test/support/service.ts';

/** Someone with a project of its own, as Tempest takes them from a file. */
export type Account = {
  readonly username: string;
  readonly password: string;
  readonly project_name: string;
  readonly user_domain_name: string;
  readonly project_domain_name: string;
  readonly roles: readonly string[];
  readonly types?: readonly string[];
};

/** What the tests are told of the cloud they run against. */
export type Cloud = AsyncDisposable & {
  readonly service: TestService;
  readonly accounts: readonly Account[];
  /** The one who is asked for more accounts. */
  readonly admin: Account;
  readonly images: readonly [string, string];
  readonly flavors: readonly [string, string];
  /** A file of an image that boots. */
  readonly imageFile: string;
};

// A class of tests may hold two members and two admins at once, and one more admin while it has servers.
const ACCOUNTS_PER_WORKER = 3;

/** The real service with accounts for so many workers, two images that boot, and two flavors. */
export async function startCloud(workers: number): Promise<Cloud> {
  await using undo = new AsyncDisposableStack();
  // What is asked to stop may still be starting, and would not hear the power button.
  const service = undo.use(await TestService.start({ imagesType: 'qcow2', shutdownTimeout: 0 }));
  const client = await service.client();
  const accounts = accountsFor(workers);
  for (const account of accounts) await addAccount(client, account);
  // A guest with an operating system: it has to let go of volumes.
  const { path: imageFile } = await testGuestImage();
  const images = [await addImage(client, 'one', imageFile), await addImage(client, 'two', imageFile)] as const;
  const flavors = [await addFlavor(client, '42', 256), await addFlavor(client, '84', 288)] as const;
  const [admin] = accounts.filter(({ types }) => types?.includes('admin'));
  if (!admin) throw new Error('there is no admin');
  const owned = undo.move();
  return {
    ...{ service, accounts, admin, images, flavors, imageFile },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

function accountsFor(workers: number): Account[] {
  const domains = { user_domain_name: 'Default', project_domain_name: 'Default' };
  return Array.from({ length: workers * ACCOUNTS_PER_WORKER }, (_, i) => i + 1).flatMap((i) => {
    const named = (name: string) => ({
      username: name,
      project_name: name,
      password: `password of ${name}`,
      ...domains,
    });
    const member: Account = { ...named(`tempest-${i}`), roles: ['member'] };
    return [member, { ...named(`tempest-admin-${i}`), roles: ['admin'], types: ['admin'] }];
  });
}

async function addAccount(client: CloudClient, { username, password, project_name, roles }: Account): Promise<void> {
  const make = async (kind: string, fields: object): Promise<string> =>
    (await client.expect('identity', 'POST', `/v3/${kind}s`, { body: { [kind]: fields } }))[kind].id;
  const project = await make('project', { name: project_name });
  const user = await make('user', { name: username, password, default_project_id: project });
  for (const name of roles) {
    const { roles: found } = await client.expect('identity', 'GET', `/v3/roles?name=${name}`);
    await client.expect('identity', 'PUT', `/v3/projects/${project}/users/${user}/roles/${found[0].id}`);
  }
}

async function addImage(client: CloudClient, name: string, file: string): Promise<string> {
  return await client.uploadImage(`conformance ${name}`, file, 'raw', { visibility: 'public' });
}

async function addFlavor(client: CloudClient, id: string, ram: number): Promise<string> {
  const flavor = { id, name: `conformance ${id}`, ram, vcpus: 1, disk: 1 };
  await client.expect('compute', 'POST', '/v2.1/flavors', { body: { flavor } });
  return id;
}
