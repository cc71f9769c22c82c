import type { CloudClient } from '#cli/cloud/client.ts';
import { type CloudLogin, readCloudsYaml } from '#main/clouds-yaml.ts';
import { testGuestImage } from '#test/support/guest-image.ts';
import { TestService } from '#test/support/service.ts';

/** What the tests are told of the cloud they run against. */
export type Cloud = AsyncDisposable & {
  readonly service: TestService;
  /** Who makes the projects and users of each class of tests. */
  readonly admin: CloudLogin;
  readonly images: readonly [string, string];
  readonly flavors: readonly [string, string];
  /** A file of an image that boots. */
  readonly imageFile: string;
};

/** The real service with two images that boot, and two flavors. */
export async function startCloud(): Promise<Cloud> {
  await using undo = new AsyncDisposableStack();
  // What is asked to stop may still be starting, and would not hear the power button.
  const service = undo.use(await TestService.start({ imagesType: 'qcow2', shutdownTimeout: 0 }));
  const client = await service.client();
  // A guest with an operating system: it has to let go of volumes.
  const { path: imageFile } = await testGuestImage();
  const images = [await addImage(client, 'one', imageFile), await addImage(client, 'two', imageFile)] as const;
  const flavors = [await addFlavor(client, '42', 256), await addFlavor(client, '84', 288)] as const;
  const admin = await readCloudsYaml(service.cloudsFile);
  const owned = undo.move();
  return {
    ...{ service, admin, images, flavors, imageFile },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

async function addImage(client: CloudClient, name: string, file: string): Promise<string> {
  return await client.uploadImage(`conformance ${name}`, file, 'raw', { visibility: 'public' });
}

async function addFlavor(client: CloudClient, id: string, ram: number): Promise<string> {
  const flavor = { id, name: `conformance ${id}`, ram, vcpus: 1, disk: 1 };
  await client.expect('compute', 'POST', '/v2.1/flavors', { body: { flavor } });
  return id;
}
